// Writing and reading of owner books.

#include "mantaray/spill/owner_book.h"

#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace mantaray::spill {

std::string OwnerBook::PathOf(const ProcessId& worker) const {
  return Join(directory_, absl::StrCat(kOwnerBookPrefix, WorkerDirectoryName(worker)));
}

std::optional<uint64_t> OwnerBook::NumberOf(absl::string_view owner_address) {
  MutexLock lock(&mutex_);
  if (directory_.empty()) return std::nullopt;
  if (const auto found = numbers_.find(owner_address); found != numbers_.end()) return found->second;
  if (!file_.valid()) {
    fs_->MakeDirectory(DirectoryOf(directory_)).IgnoreError();
    fs_->MakeDirectory(directory_).IgnoreError();
    absl::StatusOr<OwnedFile> file = fs_->Create(PathOf(self_));
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
  const absl::StatusOr<OwnedFile> file = fs_->Open(PathOf(*worker), /*writable=*/false);
  if (!file.ok()) return file.status();
  const absl::StatusOr<FileInfo> info = fs_->Stat(file->fd());
  if (!info.ok()) return info.status();
  std::string text(info->size_bytes, '\0');
  const absl::StatusOr<uint64_t> count = fs_->Read(file->fd(), text.data(), text.size(), 0);
  if (!count.ok()) return count.status();
  text.resize(*count);
  const std::vector<absl::string_view> lines = absl::StrSplit(text, '\n');
  // What stands behind the last line's end was cut off.
  if (*link->owner + 1 >= lines.size()) return unknown;
  return absl::HexStringToBytes(lines[*link->owner]);
}

}  // namespace mantaray::spill
