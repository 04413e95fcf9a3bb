// Every file and directory name that spilling makes, in one place.
//
//   <configured directory>/ray_spilled_objects_<node id>/    node directory, Ray's own name for it
//     owner                                                  which raylet it belongs to (written by the Python side)
//     w<pid>-<start>/                                        one for each IO worker; start: clock ticks since boot
//       alive                                                there as long as nobody swept up after this worker
//       .tmp-<n>/                                            batch in the making, never referred to by a URL
//       <n>/                                                 batch n, published whole by one rename
//         <object id>.<offset>.<size>[.<owner>]              hard link to the segment; offset and size in hex
//         <object id>.<offset>.<size>[.<owner>].damaged      set aside after a checksum mismatch
//         fused-<k>                                          segment k where the file system has no links or holes
//
// A link's name says which bytes of the segment it keeps alive, so that any process can tell live from dead bytes from
// a directory listing alone. <owner>, in hex, is the number of the object's owner in the book that this worker keeps
// outside the spill directories (see owner_book.h), so that the owner can be told when the file is gone. A URL, as
// Ray's raylet keeps it, is "<path>?offset=<offset>&size=<object size>" in decimal.

#ifndef MANTARAY_SPILL_NAMES_H_
#define MANTARAY_SPILL_NAMES_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "mantaray/spill/format.h"

namespace mantaray::spill {

inline constexpr absl::string_view kNodeDirectoryPrefix = "ray_spilled_objects_";
inline constexpr absl::string_view kOwnerFile = "owner";
// One file for each IO worker in the node's state directory; see owner_book.h.
inline constexpr absl::string_view kOwnerBookPrefix = "owners-";
// Another; see journal.h.
inline constexpr absl::string_view kJournalPrefix = "owed-";
// One for each object that the raylet found damaged or lost, with the object's id; see pull_check.h.
inline constexpr absl::string_view kPullNotePrefix = "pull-";
// What begins like this is never referred to, and swept when its maker is dead.
inline constexpr absl::string_view kTemporaryPrefix = ".tmp-";
inline constexpr absl::string_view kProbeDirectory = ".tmp-trial";
inline constexpr absl::string_view kRepairDirectory = ".tmp-repair";
inline constexpr absl::string_view kProbeFile = ".tmp-probe";
inline constexpr absl::string_view kProbeLink = ".tmp-probe-link";
inline constexpr absl::string_view kDamagedSuffix = ".damaged";

// A process, unmistakable while this boot lasts: a pid alone is used again.
struct ProcessId {
  int64_t pid = 0;
  uint64_t start_ticks = 0;
  friend bool operator==(const ProcessId&, const ProcessId&) = default;
  friend auto operator<=>(const ProcessId&, const ProcessId&) = default;
};

struct LinkName {
  ObjectId object_id;
  uint64_t offset = 0;
  uint64_t object_bytes = 0;
  bool damaged = false;
  std::optional<uint64_t> owner = std::nullopt;  // number in the worker's owner book
};

struct ParsedUrl {
  std::string path;
  uint64_t offset = 0;
  uint64_t object_bytes = 0;
};

std::string Join(absl::string_view directory, absl::string_view name);
std::string DirectoryOf(absl::string_view path);
absl::string_view FileOf(absl::string_view path);

std::string WorkerDirectoryName(const ProcessId& process);
std::optional<ProcessId> ParseWorkerDirectoryName(absl::string_view name);

std::string TemporaryBatchName(uint64_t batch);
bool IsTemporaryBatchName(absl::string_view name);
std::string BatchName(uint64_t batch);
std::optional<uint64_t> ParseBatchName(absl::string_view name);

std::string FormatLinkName(const LinkName& link);
std::optional<LinkName> ParseLinkName(absl::string_view name);
std::string FusedName(uint64_t segment);
// The name of a segment while it is written on a file system without O_TMPFILE.
std::string UnlinkedSegmentName(uint64_t segment);
bool IsUnlinkedSegmentName(absl::string_view name);

std::string FormatUrl(absl::string_view path, uint64_t offset, uint64_t object_bytes);
// Fails with InvalidArgument when the URL is not of the form above.
absl::StatusOr<ParsedUrl> ParseUrl(absl::string_view url);

}  // namespace mantaray::spill

#endif  // MANTARAY_SPILL_NAMES_H_
