// The page to ask on: sends a question, shows the answer with sources, plan and timings.
// Everything shown is set as text, never as markup: questions and documents are anybody's.
"use strict";

const byId = (id) => document.getElementById(id);

function element(tag, text = "", attributes = {}) {
  const made = document.createElement(tag);
  made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

function newSession() {
  const bytes = crypto.getRandomValues(new Uint8Array(8));
  const name = "page-" + Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  sessionStorage.setItem("session", name);
  byId("session").textContent = name;
  byId("answers").replaceChildren();
}

function details(summary, ...children) {
  const made = element("details");
  made.append(element("summary", summary), ...children);
  return made;
}

function sources(told) {
  const list = element("ol", "", { class: "sources" });
  for (const citation of told.citations) {
    const item = element("li");
    item.append(element("cite", citation.title), element("code", citation.uri), element("q", citation.quote));
    list.append(item);
  }
  return list;
}

function plan(told) {
  const list = element("ul");
  for (const reason of told.plan.reasons) list.append(element("li", reason));
  const how = `${told.plan.strategy}, ${told.plan.k} passages, ${told.plan.layers.join(" > ")}`;
  const found = element("ul");
  for (const hit of told.hits) {
    const by = Object.entries(hit.found_by).map(([search, rank]) => `${search} #${rank}`).join(", ");
    found.append(element("li", `${hit.title} (${hit.layer}; ${by})`));
  }
  return details(`Plan: ${how}`, list, element("h3", "Found"), found);
}

function timings(told) {
  const table = element("table");
  table.append(element("caption", "Time by stage, in milliseconds"));
  for (const [stage, spent] of Object.entries(told.timings_ms)) {
    const row = element("tr");
    row.append(element("th", stage, { scope: "row" }), element("td", spent.toFixed(1)));
    table.append(row);
  }
  const total = Object.values(told.timings_ms).reduce((sum, spent) => sum + spent, 0);
  return details(`Time: ${total.toFixed(0)} ms`, table);
}

function show(told) {
  const article = element("article", "", told.known ? {} : { class: "unknown" });
  article.append(element("h2", told.question), element("p", told.answer, { class: "answer" }));
  if (told.citations.length) article.append(element("h3", "Sources"), sources(told));
  article.append(plan(told), timings(told));
  byId("answers").prepend(article);
}

async function ask(question) {
  const reply = await fetch("/ask", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ question, session_id: sessionStorage.getItem("session"), explain: true }),
  });
  const told = await reply.json().catch(() => ({}));
  if (!reply.ok) {
    const later = reply.headers.get("Retry-After");
    const message = told.message || `The service answered with status ${reply.status}.`;
    throw new Error(later ? `${message} (Try again in ${later} s.)` : message);
  }
  return told;
}

async function submitted(event) {
  event.preventDefault();
  const input = byId("question");
  const question = input.value.trim();
  if (!question || byId("send").disabled) return;
  byId("send").disabled = true;
  byId("problem").textContent = "";
  byId("status").textContent = "Looking for an answer…";
  try {
    show(await ask(question));
    byId("status").textContent = "Answered.";
    input.value = "";
  } catch (error) {
    byId("status").textContent = "";
    byId("problem").textContent = `No answer: ${error.message}`;
  } finally {
    byId("send").disabled = false;
    input.focus();
  }
}

byId("ask").addEventListener("submit", submitted);
byId("new-session").addEventListener("click", newSession);
newSession();
byId("question").focus();
