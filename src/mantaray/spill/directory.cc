// Room and abilities of spill directories.

#include "mantaray/spill/directory.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "mantaray/spill/format.h"
#include "mantaray/spill/names.h"

namespace mantaray::spill {
namespace {

constexpr uint64_t kDefaultReserveBytes = uint64_t{1} << 30;
constexpr uint64_t kReserveDivisor = 20;
constexpr uint64_t kProbeBytes = 16 * kBlockBytes;

// Writes a few blocks, punches them out and looks whether the disk got them back.
bool CanPunch(FileSystem* fs, int fd) {
  std::string data(kProbeBytes, 'x');
  std::vector<iovec> vectors{{data.data(), data.size()}};
  if (!fs->Write(fd, &vectors, 0).ok()) return false;
  const auto before = fs->Stat(fd);
  if (!before.ok() || !fs->PunchHole(fd, 0, kProbeBytes).ok()) return false;
  // Delayed allocation may not have counted the blocks yet; then the call's own word has to do.
  const auto after = fs->Stat(fd);
  return after.ok() && (before->allocated_bytes == 0 || after->allocated_bytes < before->allocated_bytes);
}

}  // namespace

std::string DirectoryRoom::ToString() const {
  return absl::StrFormat("%u bytes free, %u of them usable above the reserve", free_bytes, usable_bytes);
}

DirectoryRoom DirectorySet::RoomOf(size_t directory) {
  DirectoryRoom room;
  room.directory = directory;
  const absl::StatusOr<SpaceInfo> space = fs_->Space(paths_[directory]);
  room.status = space.status();
  if (!space.ok()) return room;
  const uint64_t reserve =
      reserve_bytes_.value_or(std::min(kDefaultReserveBytes, space->total_bytes / kReserveDivisor));
  room.free_bytes = space->free_bytes;
  room.usable_bytes = space->free_bytes - std::min(space->free_bytes, reserve);
  return room;
}

std::vector<DirectoryRoom> DirectorySet::Rooms() {
  std::vector<DirectoryRoom> rooms;
  for (size_t i = 0; i < paths_.size(); ++i) rooms.push_back(RoomOf(i));
  std::stable_sort(rooms.begin(), rooms.end(),
                   [](const DirectoryRoom& a, const DirectoryRoom& b) { return a.usable_bytes > b.usable_bytes; });
  return rooms;
}

absl::Status DirectorySet::Allocate(size_t directory, int fd, uint64_t size_bytes) {
  // Without the lock (some network file systems) the second look still closes most of the gap.
  const absl::StatusOr<OwnedFile> lock = fs_->LockDirectory(Join(paths_[directory], ".."));
  const DirectoryRoom room = RoomOf(directory);
  if (!room.status.ok()) return room.status;
  if (room.usable_bytes < size_bytes) return absl::ResourceExhaustedError(room.ToString());
  return fs_->Allocate(fd, size_bytes);
}

const Capabilities& DirectorySet::Probe(size_t directory, const std::string& scratch_directory) {
  const auto found = probed_.find(directory);
  if (found != probed_.end()) return found->second;
  return probed_.emplace(directory, TryOut(scratch_directory)).first->second;
}

Capabilities DirectorySet::TryOut(const std::string& scratch_directory) {
  Capabilities capabilities;
  const std::string name = Join(scratch_directory, kProbeFile);
  const std::string link = Join(scratch_directory, kProbeLink);
  absl::StatusOr<OwnedFile> file = fs_->OpenUnnamed(scratch_directory);
  capabilities.unnamed_files = file.ok() && fs_->Link(file->fd(), link).ok();
  if (!capabilities.unnamed_files) file = fs_->Create(name);
  const bool links = capabilities.unnamed_files || (file.ok() && fs_->Link(file->fd(), link).ok());
  const bool holes = file.ok() && CanPunch(fs_, file->fd());
  for (const std::string& made : {name, link}) fs_->Unlink(made).IgnoreError();
  if (const auto space = fs_->Space(scratch_directory); space.ok()) capabilities.link_max = space->link_max;
  capabilities.per_object = links && holes && capabilities.link_max > 1;
  std::vector<absl::string_view> missing;
  if (!capabilities.unnamed_files) missing.push_back("O_TMPFILE");
  if (!links) missing.push_back("hard links");
  if (!holes) missing.push_back("hole punching");
  capabilities.missing = absl::StrJoin(missing, ", ");
  return capabilities;
}

}  // namespace mantaray::spill
