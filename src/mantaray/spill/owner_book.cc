// Writing and reading of owner books.

#include "mantaray/spill/owner_book.h"

#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "mantaray/spill/state_file.h"

namespace mantaray::spill {

std::string OwnerBook::PathOf(const ProcessId& worker) const {
  return Join(directory_, absl::StrCat(kOwnerBookPrefix, WorkerDirectoryName(worker)));
}

std::optional<uint64_t> OwnerBook::NumberOf(absl::string_view owner_address) {
  MutexLock lock(&mutex_);
  if (directory_.empty()) return std::nullopt;
  if (const auto found = numbers_.find(owner_address); found != numbers_.end()) return found->second;
  if (!file_.valid()) {
    absl::StatusOr<OwnedFile> file = CreateStateFile(fs_, PathOf(self_));
    if (!file.ok()) return std::nullopt;
    file_ = *std::move(file);
  }
  std::string line = absl::StrCat(absl::BytesToHexString(owner_address), "\n");
  std::vector<iovec> vectors{{line.data(), line.size()}};
  // After a failure the next line goes to the same place, so that numbers and lines stay together.
  if (!fs_->Write(file_.fd(), &vectors, size_bytes_).ok()) return std::nullopt;
  size_bytes_ += line.size();
  return numbers_.emplace(std::string(owner_address), numbers_.size()).first->second;
}

absl::StatusOr<std::string> OwnerBook::Find(absl::string_view link_path) {
  const absl::Status unknown = absl::NotFoundError(absl::StrCat("the owner of ", link_path, " is not known"));
  const auto link = ParseLinkName(FileOf(link_path));
  const auto worker = ParseWorkerDirectoryName(FileOf(DirectoryOf(DirectoryOf(link_path))));
  if (directory_.empty() || !link || !link->owner || !worker) return unknown;
  const absl::StatusOr<std::vector<std::string>> lines = ReadStateFile(fs_, PathOf(*worker));
  if (!lines.ok()) return lines.status();
  if (*link->owner >= lines->size()) return unknown;
  return absl::HexStringToBytes((*lines)[*link->owner]);
}

}  // namespace mantaray::spill
