// Making and parsing of names and URLs.

#include "mantaray/spill/names.h"

#include <charconv>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace mantaray::spill {
namespace {

constexpr absl::string_view kFusedPrefix = "fused-";
constexpr absl::string_view kUnlinkedPrefix = "segment-";

std::optional<uint64_t> ParseUnsigned(absl::string_view text, int base) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (error != std::errc() || end != text.data() + text.size() || text.empty()) return std::nullopt;
  return value;
}

}  // namespace

std::string Join(absl::string_view directory, absl::string_view name) { return absl::StrCat(directory, "/", name); }

std::string DirectoryOf(absl::string_view path) {
  const size_t slash = path.rfind('/');
  return std::string(slash == absl::string_view::npos ? "." : path.substr(0, slash));
}

absl::string_view FileOf(absl::string_view path) {
  const size_t slash = path.rfind('/');
  return slash == absl::string_view::npos ? path : path.substr(slash + 1);
}

std::string WorkerDirectoryName(const ProcessId& process) {
  return absl::StrCat("w", process.pid, "-", process.start_ticks);
}

std::optional<ProcessId> ParseWorkerDirectoryName(absl::string_view name) {
  if (!absl::ConsumePrefix(&name, "w")) return std::nullopt;
  const size_t dash = name.find('-');
  if (dash == absl::string_view::npos) return std::nullopt;
  const auto pid = ParseUnsigned(name.substr(0, dash), 10);
  const auto start = ParseUnsigned(name.substr(dash + 1), 10);
  if (!pid || !start || *pid == 0 || *pid > INT32_MAX) return std::nullopt;
  return ProcessId{static_cast<int64_t>(*pid), *start};
}

std::string TemporaryBatchName(uint64_t batch) { return absl::StrCat(kTemporaryPrefix, batch); }
bool IsTemporaryBatchName(absl::string_view name) { return absl::StartsWith(name, kTemporaryPrefix); }
std::string BatchName(uint64_t batch) { return absl::StrCat(batch); }
std::optional<uint64_t> ParseBatchName(absl::string_view name) { return ParseUnsigned(name, 10); }

std::string FormatLinkName(const LinkName& link) {
  return absl::StrCat(link.object_id.Hex(), ".", absl::Hex(link.offset), ".", absl::Hex(link.object_bytes),
                      link.owner ? absl::StrCat(".", absl::Hex(*link.owner)) : "", link.damaged ? kDamagedSuffix : "");
}

std::optional<LinkName> ParseLinkName(absl::string_view name) {
  LinkName link;
  link.damaged = absl::ConsumeSuffix(&name, kDamagedSuffix);
  const std::vector<absl::string_view> parts = absl::StrSplit(name, '.');
  if (parts.size() < 3 || parts.size() > 4 || parts[0].size() != 2 * kObjectIdBytes) return std::nullopt;
  std::string id(kObjectIdBytes, '\0');
  for (size_t i = 0; i < kObjectIdBytes; ++i) {
    const auto byte = ParseUnsigned(parts[0].substr(2 * i, 2), 16);
    if (!byte) return std::nullopt;
    id[i] = static_cast<char>(*byte);
  }
  link.object_id = *ObjectId::FromBinary(id);
  const auto offset = ParseUnsigned(parts[1], 16);
  const auto object_bytes = ParseUnsigned(parts[2], 16);
  if (!offset || !object_bytes || *offset % kBlockBytes != 0 || *object_bytes > kMaxObjectBytes) return std::nullopt;
  if (parts.size() == 4) {
    link.owner = ParseUnsigned(parts[3], 16);
    if (!link.owner) return std::nullopt;
  }
  link.offset = *offset;
  link.object_bytes = *object_bytes;
  return link;
}

std::string FusedName(uint64_t segment) { return absl::StrCat(kFusedPrefix, segment); }
bool IsUnlinkedSegmentName(absl::string_view name) { return absl::StartsWith(name, kUnlinkedPrefix); }
std::string UnlinkedSegmentName(uint64_t segment) { return absl::StrCat(kUnlinkedPrefix, segment); }

std::string FormatUrl(absl::string_view path, uint64_t offset, uint64_t object_bytes) {
  return absl::StrCat(path, "?offset=", offset, "&size=", object_bytes);
}

absl::StatusOr<ParsedUrl> ParseUrl(absl::string_view url) {
  const auto bad = [url] {
    return absl::InvalidArgumentError(
        absl::StrCat("not a spill URL (expected PATH?offset=N&size=N): ", absl::CHexEscape(url)));
  };
  const size_t question = url.rfind("?offset=");
  if (question == absl::string_view::npos) return bad();
  absl::string_view query = url.substr(question + 1);
  const size_t ampersand = query.find("&size=");
  if (!absl::ConsumePrefix(&query, "offset=") || ampersand == absl::string_view::npos) return bad();
  const auto offset = ParseUnsigned(query.substr(0, query.find('&')), 10);
  const auto object_bytes = ParseUnsigned(query.substr(query.find("&size=") + 6), 10);
  if (!offset || !object_bytes || question == 0) return bad();
  return ParsedUrl{std::string(url.substr(0, question)), *offset, *object_bytes};
}

}  // namespace mantaray::spill
