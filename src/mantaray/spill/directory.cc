// Room and abilities of spill directories.

#include "mantaray/spill/directory.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "mantaray/spill/format.h"
#include "mantaray/spill/names.h"

namespace mantaray::spill {
namespace {

constexpr uint64_t kDefaultReserveBytes = uint64_t{1} << 30;
constexpr uint64_t kReserveDivisor = 20;
constexpr uint64_t kProbeBytes = 16 * kBlockBytes;

// Whether a failure says nothing about what the file system can do: it is full, out of reach, or out of descriptors.
bool MayPass(const absl::Status& status) {
  return absl::IsResourceExhausted(status) || absl::IsUnavailable(status) || absl::IsNotFound(status) ||
         absl::IsAborted(status);
}

// Writes a few blocks, punches them out and looks whether the disk got them back. An error that is no answer is
// returned as it is.
absl::StatusOr<bool> CanPunch(FileSystem* fs, int fd) {
  std::string data(kProbeBytes, 'x');
  std::vector<iovec> vectors{{data.data(), data.size()}};
  if (absl::Status status = fs->Write(fd, &vectors, 0); !status.ok()) return status;
  const auto before = fs->Stat(fd);
  if (!before.ok()) return before.status();
  if (const absl::Status status = fs->PunchHole(fd, 0, kProbeBytes); !status.ok()) {
    if (MayPass(status)) return status;
    return false;
  }
  // Delayed allocation may not have counted the blocks yet; then the call's own word has to do.
  const auto after = fs->Stat(fd);
  if (!after.ok()) return after.status();
  return before->allocated_bytes == 0 || after->allocated_bytes < before->allocated_bytes;
}

}  // namespace

std::string DirectoryRoom::ToString() const {
  return absl::StrFormat("%u bytes free, %u of them usable above the reserve", free_bytes, usable_bytes);
}

absl::StatusOr<SpaceInfo> DirectorySet::SpaceOf(size_t directory) {
  absl::StatusOr<SpaceInfo> space = fs_->Space(paths_[directory]);
  // The node directory is missing: it will be made where the configured directory is.
  if (absl::IsNotFound(space.status())) space = fs_->Space(DirectoryOf(paths_[directory]));
  if (!space.ok()) return space.status();
  uint64_t& device = devices_[directory];
  if (device == 0) device = space->device;
  if (device == space->device) return space;
  return absl::UnavailableError("lies on another disk than at the start of the node; mount the disk again");
}

std::optional<size_t> DirectorySet::Find(absl::string_view path) const {
  for (size_t i = 0; i < paths_.size(); ++i) {
    if (absl::StartsWith(path, absl::StrCat(paths_[i], "/"))) return i;
  }
  return std::nullopt;
}

absl::Status DirectorySet::CheckPresent(size_t directory) {
  const absl::Status status = SpaceOf(directory).status();
  if (status.ok()) return status;
  return absl::UnavailableError(absl::StrCat("spill directory ", paths_[directory], ": ", status.message()));
}

absl::Status DirectorySet::CheckRoom(size_t directory, uint64_t size_bytes) {
  const DirectoryRoom room = RoomOf(directory);
  if (!room.status.ok()) return room.status;
  if (room.usable_bytes >= size_bytes) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat(paths_[directory], " has ", room.ToString()));
}

absl::Status DirectorySet::Ensure(size_t directory) {
  if (const absl::Status status = SpaceOf(directory).status(); !status.ok()) return status;
  const absl::Status made = fs_->MakeDirectory(paths_[directory]);
  return absl::IsAlreadyExists(made) ? absl::OkStatus() : made;
}

DirectoryRoom DirectorySet::RoomOf(size_t directory) {
  DirectoryRoom room;
  room.directory = directory;
  const absl::StatusOr<SpaceInfo> space = SpaceOf(directory);
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

const Capabilities* DirectorySet::Probed(size_t directory) const {
  const auto found = probed_.find(directory);
  return found == probed_.end() ? nullptr : &found->second;
}

absl::StatusOr<Capabilities> DirectorySet::Probe(size_t directory, const std::string& scratch_directory) {
  const auto found = probed_.find(directory);
  if (found != probed_.end()) return found->second;
  const absl::StatusOr<Capabilities> capabilities = TryOut(scratch_directory);
  if (capabilities.ok()) probed_.emplace(directory, *capabilities);
  return capabilities;
}

absl::StatusOr<Capabilities> DirectorySet::TryOut(const std::string& scratch_directory) {
  const std::string name = Join(scratch_directory, kProbeFile);
  const std::string link = Join(scratch_directory, kProbeLink);
  const auto try_out = [&]() -> absl::StatusOr<Capabilities> {
    Capabilities capabilities;
    absl::StatusOr<OwnedFile> file = fs_->OpenUnnamed(scratch_directory);
    // A missing /proc is NotFound for a link alone.
    const auto make_link = [&] {
      const absl::Status made = fs_->Link(file->fd(), link);
      if (absl::IsAlreadyExists(made)) return absl::UnavailableError(absl::StrCat(link, " cannot be removed"));
      return absl::IsNotFound(made) && fs_->Space(scratch_directory).ok() ? absl::UnimplementedError("no /proc") : made;
    };
    absl::Status linked = file.ok() ? make_link() : file.status();
    capabilities.unnamed_files = linked.ok();
    if (!linked.ok()) {
      if (MayPass(linked)) return linked;
      file = fs_->Create(name);
      if (!file.ok()) return file.status();
      linked = make_link();
      if (MayPass(linked)) return linked;
    }
    const absl::StatusOr<bool> holes = CanPunch(fs_, file->fd());
    if (!holes.ok()) return holes.status();
    const absl::StatusOr<SpaceInfo> space = fs_->Space(scratch_directory);
    if (!space.ok()) return space.status();
    capabilities.link_max = space->link_max;
    capabilities.per_object = linked.ok() && *holes && capabilities.link_max > 1;
    std::vector<absl::string_view> missing;
    if (!capabilities.unnamed_files) missing.push_back("O_TMPFILE");
    if (!linked.ok()) missing.push_back("hard links");
    if (!*holes) missing.push_back("hole punching");
    capabilities.missing = absl::StrJoin(missing, ", ");
    return capabilities;
  };
  const auto clean = [&] {
    for (const std::string& made : {name, link}) fs_->Unlink(made).IgnoreError();
  };
  clean();  // an earlier trial may have met an error when it cleaned up
  absl::StatusOr<Capabilities> capabilities = try_out();
  clean();
  return capabilities;
}

}  // namespace mantaray::spill
