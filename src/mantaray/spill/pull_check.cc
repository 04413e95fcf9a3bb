// Verifying a spilled object, and the note about one that is damaged or lost.

#include "mantaray/spill/pull_check.h"

#include <sys/uio.h>

#include <optional>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "mantaray/spill/reader.h"

namespace mantaray::spill {
namespace {

// The chunks of a large object are sent within this time, or the object is read once more.
constexpr int64_t kSoundForMs = 60000;
constexpr size_t kMostRemembered = 10000;

}  // namespace

bool PullCheck::MayRead(absl::string_view path) {
  // The raylet opens many other files.
  if (!absl::StrContains(path, kNodeDirectoryPrefix)) return true;
  const std::optional<LinkName> link = ParseLinkName(FileOf(path));
  if (!link || link->damaged) return true;
  const ParsedUrl url{std::string(path), link->offset, link->object_bytes};
  if (IsKnownSound(url.path)) return true;
  const absl::Status status = Verify(url, link->object_id);
  if (status.ok()) RememberSound(url.path);
  if (absl::IsDataLoss(status) || absl::IsNotFound(status)) WriteNote(*link, url, status);
  return !absl::IsDataLoss(status);
}

bool PullCheck::IsKnownSound(const std::string& path) {
  MutexLock lock(&mutex_);
  const auto found = sound_until_ms_.find(path);
  return found != sound_until_ms_.end() && clock_->NowMs() < found->second;
}

void PullCheck::RememberSound(const std::string& path) {
  MutexLock lock(&mutex_);
  const int64_t now_ms = clock_->NowMs();
  if (sound_until_ms_.size() >= kMostRemembered) {
    std::erase_if(sound_until_ms_, [&](const auto& entry) { return entry.second <= now_ms; });
    if (sound_until_ms_.size() >= kMostRemembered) sound_until_ms_.clear();
  }
  sound_until_ms_[path] = now_ms + kSoundForMs;
}

absl::Status PullCheck::Verify(const ParsedUrl& url, const ObjectId& object_id) {
  absl::Status status = VerifyRead(url, object_id);
  if (!absl::IsDataLoss(status)) return status;
  // It may be an object that was rebuilt with another size.
  const absl::StatusOr<OwnedFile> file = fs_->Open(url.path, /*writable=*/false);
  if (!file.ok()) return file.status();
  const absl::StatusOr<uint64_t> actual_bytes = ActualObjectBytes(fs_, file->fd(), url.offset);
  if (absl::IsUnavailable(actual_bytes.status())) return actual_bytes.status();
  if (!actual_bytes.ok() || *actual_bytes == url.object_bytes) return status;
  return VerifyRead({url.path, url.offset, *actual_bytes}, object_id);
}

absl::Status PullCheck::VerifyRead(const ParsedUrl& url, const ObjectId& object_id) {
  absl::StatusOr<OwnedFile> file = fs_->Open(url.path, /*writable=*/false);
  if (!file.ok()) return file.status();
  ObjectSource source;
  source.file = *std::move(file);
  absl::StatusOr<ObjectReader> reader = ObjectReader::Open(fs_, url, std::move(source), object_id);
  return reader.ok() ? reader->VerifyPayload() : reader.status();
}

// A note appears whole, and a later one about the same object takes its place.
void PullCheck::WriteNote(const LinkName& link, const ParsedUrl& url, const absl::Status& problem) {
  if (notes_directory_.empty()) return;
  const uint64_t number = [&] {
    MutexLock lock(&mutex_);
    return ++notes_;
  }();
  const std::string id = link.object_id.Hex();
  const std::string temporary = Join(notes_directory_, absl::StrCat(kTemporaryPrefix, kPullNotePrefix, number));
  std::string text =
      absl::StrCat(FormatUrl(url.path, url.offset, url.object_bytes), "\n", std::string(problem.message()), "\n");
  absl::Status written;
  {
    const absl::StatusOr<OwnedFile> file = fs_->Create(temporary);
    if (!file.ok()) return;
    std::vector<iovec> parts = {{text.data(), text.size()}};
    written = fs_->Write(file->fd(), &parts, 0);
  }
  if (written.ok()) written = fs_->Rename(temporary, Join(notes_directory_, absl::StrCat(kPullNotePrefix, id)));
  if (!written.ok()) fs_->Unlink(temporary).IgnoreError();
}

}  // namespace mantaray::spill
