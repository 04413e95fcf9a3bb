// See state_file.h.

#include "mantaray/spill/state_file.h"

#include "absl/strings/str_split.h"
#include "mantaray/spill/names.h"

namespace mantaray::spill {

absl::StatusOr<OwnedFile> CreateStateFile(FileSystem* fs, const std::string& path) {
  const std::string directory = DirectoryOf(path);
  fs->MakeDirectory(DirectoryOf(directory)).IgnoreError();
  fs->MakeDirectory(directory).IgnoreError();
  return fs->Create(path);
}

absl::StatusOr<std::vector<std::string>> ReadStateFile(FileSystem* fs, const std::string& path) {
  const absl::StatusOr<OwnedFile> file = fs->Open(path, /*writable=*/false);
  if (!file.ok()) return file.status();
  const absl::StatusOr<FileInfo> info = fs->Stat(file->fd());
  if (!info.ok()) return info.status();
  std::string text(info->size_bytes, '\0');
  const absl::StatusOr<uint64_t> count = fs->Read(file->fd(), text.data(), text.size(), 0);
  if (!count.ok()) return count.status();
  text.resize(*count);
  std::vector<std::string> lines = absl::StrSplit(text, '\n');
  lines.pop_back();  // what stands behind the last line's end
  return lines;
}

}  // namespace mantaray::spill
