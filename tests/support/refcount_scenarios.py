"""Who holds, passes on and lets go of what: scripts that real Ray and the library both go through.

A scenario is data: steps, each a list of words. The processes are "driver" and actors with letters for
names; "pool" is whichever worker runs a plain task. The other words name objects.

    put P X [Y ...]      P puts X, with references to Y ... in its value, and holds a reference to it
    give P Q X ...       P calls Q with references to X ... in a list; Q keeps them
    lend P Q X ...       the same, but Q keeps nothing
    unpack P Q X Y ...   P calls Q with X itself; Q keeps references to Y ..., which it finds in the value
    ask P Q R X ...      P calls Q, which returns references to X ... in a list; P holds the result R
    open P X Y ...       P gets the value of X and keeps the references to Y ... in it
    make P R [X ...]     P starts a plain task with references to X ... in a list; its result R is large
    small P R [X ...]    the same with a small result
    start P Q R X ...    P calls Q with references to X ... in a list; the call R goes on until told
    use P Q R X          the same with X itself as the argument
    finish Q R           it ends
    drop P X ...         P lets go of X ...
    dump P X             P pickles its reference to X by itself (out of band)
    load Q X             Q makes a reference of what was pickled, and keeps it
    kill P               P is killed
    read P X             P tries to get the value of X
"""

from __future__ import annotations

SCENARIOS: dict[str, str] = {
    "own object, dropped": """
        put driver x
        read driver x
        drop driver x
    """,
    "borrower outlives the owner's reference": """
        put driver x
        give driver a x
        drop driver x
        read a x
        drop a x
    """,
    "owner's reference outlives the borrower": """
        put driver x
        give driver a x
        drop a x
        read driver x
        drop driver x
    """,
    "argument that nobody keeps": """
        put driver x
        lend driver a x
        lend driver a x
        drop driver x
    """,
    "borrower lends to a borrower": """
        put driver x
        give driver a x
        give a b x
        drop driver x
        drop a x
        read b x
        drop b x
    """,
    "two borrowers": """
        put driver x
        give driver a x
        give driver b x
        drop driver x
        drop b x
        read a x
        drop a x
    """,
    "same object borrowed twice": """
        put driver x
        give driver a x
        drop a x
        give driver a x
        drop driver x
        read a x
        drop a x
    """,
    "nested in an own object": """
        put driver x
        put driver y x
        drop driver x
        open driver y x
        drop driver y
        read driver x
        drop driver x
    """,
    "nested twice in own objects": """
        put driver x
        put driver y x
        put driver z y
        drop driver x y
        open driver z y
        drop driver z
        open driver y x
        drop driver y
        drop driver x
    """,
    "nested in a borrowed object": """
        put driver x
        put driver y x
        give driver a y
        drop driver x y
        open a y x
        drop a y
        read a x
        drop a x
    """,
    "nested in an argument's value": """
        put driver x
        put driver y x
        unpack driver a y x
        drop driver y
        drop driver x
        read a x
        drop a x
    """,
    "nested twice in a borrowed object": """
        put driver x
        put driver y x
        put driver z y
        give driver a z
        drop driver x y z
        open a z y
        open a y x
        drop a z y
        give a b x
        drop a x
        read b x
        drop b x
    """,
    "returned by its owner": """
        put a x
        ask driver a r x
        drop a x
        open driver r x
        drop driver r
        read driver x
        drop driver x
    """,
    "returned and never opened": """
        put a x
        ask driver a r x
        drop a x
        drop driver r
    """,
    "returned by a borrower to its owner": """
        put driver x
        give driver a x
        drop driver x
        ask driver a r x
        drop a x
        open driver r x
        drop driver r
        read driver x
        drop driver x
    """,
    "returned by a borrower to a third": """
        put b x
        ask a b r x
        open a r x
        drop a r
        ask driver a s x
        drop a x
        drop b x
        open driver s x
        drop driver s
        read driver x
        drop driver x
    """,
    "returned inside an object of the callee": """
        put a x
        put a y x
        ask driver a r y
        drop a x y
        open driver r y
        drop driver r
        open driver y x
        drop driver y
        read driver x
        drop driver x
    """,
    "borrowed object inside the borrower's object": """
        put driver x
        give driver a x
        drop driver x
        put a y x
        drop a x
        open a y x
        drop a x
        drop a y
    """,
    "held by an actor and lent on": """
        put a x
        give a b x
        drop a x
        lend b c x
        read b x
        drop b x
    """,
    "argument of a call that goes on": """
        put driver x
        start driver a r x
        drop driver x
        finish a r
        drop driver r
    """,
    "argument itself of a call that goes on": """
        put driver x
        use driver a r x
        drop driver x
        finish a r
        drop driver r
    """,
    "result dropped while the call goes on": """
        put driver x
        start driver a r x
        drop driver x r
        finish a r
    """,
    "call passed on while the first goes on": """
        put driver x
        give driver a x
        start a b r x
        drop a x
        drop driver x
        finish b r
        drop a r
    """,
    "pickled out of band": """
        put driver x
        dump driver x
        load a x
        drop driver x
        read a x
        drop a x
    """,
    "pickled out of band by a borrower": """
        put driver x
        give driver a x
        dump a x
        drop a x
        drop driver x
        load b x
        read b x
        drop b x
    """,
    "large result of a plain task": """
        put driver x
        make driver r x
        drop driver x
        read driver r
        drop driver r
    """,
    "lineage of a result made from a result": """
        make driver r
        make driver s r
        drop driver r
        read driver s
        drop driver s
    """,
    "small result of a plain task, borrowed": """
        small driver r
        give driver a r
        drop driver r
        read a r
        drop a r
    """,
    "borrower killed": """
        put driver x
        give driver a x
        drop driver x
        kill a
    """,
    "borrower killed while others borrow": """
        put driver x
        give driver a x
        give driver b x
        drop driver x
        kill a
        read b x
        drop b x
    """,
    "killed between owner and borrower": """
        put driver x
        give driver a x
        give a b x
        drop driver x
        kill a
        read b x
        drop b x
    """,
    "borrower of nested objects killed": """
        put driver x
        put driver y x
        give driver a y
        open a y x
        drop driver x y
        kill a
    """,
    "killed in a call": """
        put driver x
        start driver a r x
        drop driver x
        kill a
        drop driver r
    """,
    "holder of a result with references killed": """
        put a x
        ask b a r x
        drop a x
        kill b
    """,
    "owner killed": """
        put a x
        ask driver a r x
        open driver r x
        drop driver r
        give driver b x
        kill a
        read driver x
        read b x
        drop driver x
        drop b x
    """,
    "owner of a nested object killed": """
        put a x
        ask driver a r x
        open driver r x
        drop driver r
        put driver y x
        drop driver x
        give driver b y
        kill a
        open b y x
        read b y
        read b x
        drop b x
        drop driver y
        drop b y
    """,
}


def steps_of(scenario: str) -> list[list[str]]:
    """Return the steps of a scenario, each a list of words."""
    return [line.split() for line in SCENARIOS[scenario].strip().splitlines()]


# {(version of Ray, scenario): {number of the step: {process: table}}}: where that Ray shows something else
# than the library. docs/refcount-conformance.md says why.
KNOWN_DIFFERENCES: dict[tuple[str, str], dict[int, dict[str, dict[str, list[int]]]]] = {}
