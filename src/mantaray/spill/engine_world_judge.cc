// What must hold: of every read, and of the disks when all is quiet.

#include <algorithm>

#include "mantaray/spill/engine_world_parts.h"

namespace mantaray::spill::world {

void World::JudgeError(const Object& object, const absl::Status& status, absl::string_view what) {
  if (object.state != Object::kSpilled || object.damaged) return;
  if (absl::IsDataLoss(status) || absl::IsNotFound(status)) {
    Violated(what, " of ", Hex(object.id).substr(0, 8), " which is alive and well: ", status.ToString());
  } else if (quiet_) {
    Violated(what, " of ", Hex(object.id).substr(0, 8), " fails without a fault: ", status.ToString());
  }
}

void World::JudgeBytes(const Object& object, absl::string_view payload, bool opened_earlier) {
  const bool former = object.damaged || (opened_earlier && !object.former_payload.empty());
  if (payload == object.payload || (former && payload == object.former_payload)) return;
  Violated("wrong bytes read of ", Hex(object.id).substr(0, 8));
}

void World::Finish(Reader* reader) {
  const Object& object = objects_[reader->object];
  if (reader->raylets) return FinishRaylets(reader);
  std::string payload(reader->ours->payload_bytes(), '\0');
  const bool quiet = std::exchange(quiet_, true);  // the reads of a reader are tried again by its caller
  const absl::Status status = reader->ours->ReadPayload(payload, &parallel_);
  quiet_ = quiet;
  if (status.ok()) return JudgeBytes(object, payload, reader->earlier);
  if (absl::IsUnavailable(status)) return;  // the worker died
  // Without locks a reader has the grace time.
  const bool late = !range_locks_ && object.state == Object::kDeleted;
  // What it opened may have been damaged and then rebuilt in another file.
  const bool rebuilt = reader->earlier && !object.former_payload.empty();
  if (!reader->doubtful && !object.damaged && !rebuilt && !late &&
      fault_permille_[size_t(Operation::kLockRange)] == 0) {
    Violated("reading ", Hex(object.id).substr(0, 8), " that was opened whole: ", status.ToString());
  }
}

void World::FinishRaylets(Reader* reader) {
  const Object& object = objects_[reader->object];
  if (object.damaged) return;
  const bool late = object.state == Object::kDeleted && clock_.NowMs() >= object.deleted_ms + kGraceMs;
  if (late && !raylet_is_seen_) return;
  const ParsedUrl url = *ParseUrl(object.url);
  const uint64_t header_bytes = kLengthsBytes + object.address.size() + 1;
  std::string payload(object.payload.size(), '\0');
  real_.Read(reader->raylets->fd(), payload.data(), payload.size(), url.offset + header_bytes).IgnoreError();
  if (payload != object.payload && object.former_payload.empty()) {
    Violated("the raylet reads wrong bytes of ", Hex(object.id).substr(0, 8), " from a file that it had opened, ",
             late ? "after" : "within", " the grace time");
  }
}

void World::Quiesce() {
  quiet_ = true;
  vanished_.clear();
  for (MemoryFileSystem::Disk* disk : disks_) disk->capacity_blocks = 1 << 18;
  for (const auto& worker : workers_) SetMounts(worker.get());
  while (!readers_.empty()) StepReader();
  ++depth_;
  if (!undeleted_.empty()) Delete(workers_.front().get(), {});
  for (size_t i = 0; i < objects_.size(); ++i) {
    if (objects_[i].state == Object::kSpilled && objects_[i].damaged) Rebuild(workers_.front().get(), i);
  }
  for (int i = 0; i < 26; ++i) {
    clock_.AdvanceMs(5000);
    for (const auto& worker : workers_) worker->engine->Tick();
  }
  --depth_;
}

bool World::MayStay(const LinkName& link) const {
  // A sweep, or the removal of what it found, may have failed for as long as the worker lived that spilled the object
  // again.
  const bool unswept = crash_permille_ > 0 && (unmounts_ || fault_permille_[size_t(Operation::kList)] > 0 ||
                                               fault_permille_[size_t(Operation::kOpen)] > 0 ||
                                               fault_permille_[size_t(Operation::kUnlink)] > 0);
  return std::any_of(objects_.begin(), objects_.end(), [&](const Object& object) {
    return object.id == link.object_id && (unswept || object.state == Object::kInMemory);
  });
}

void World::JudgeLive() {
  if (!violation_.empty()) return;
  real_.EvictAll();
  std::map<std::pair<uint64_t, uint64_t>, uint64_t> live_bytes;
  std::map<std::pair<uint64_t, uint64_t>, uint64_t> allocated_bytes;
  std::map<std::string, const Object*> live;
  for (const Object& object : objects_) {
    if (object.state != Object::kSpilled) continue;
    // A rebuilt copy that was set aside by mistake, by a worker that then died, is put back when it is read.
    const std::string aside = absl::StrCat(object.path, kDamagedSuffix);
    const bool is_aside = !real_.Open(object.path, /*writable=*/false).ok() && real_.Open(aside, false).ok();
    live[is_aside ? aside : object.path] = &object;
  }
  for (const std::string& node : options_.node_directories) {
    for (const MemoryFileSystem::Name& name : real_.Tree(node)) {
      if (name.is_directory) continue;
      const auto found = live.find(name.path);
      const auto link = ParseLinkName(FileOf(name.path));
      if (found == live.end() && !(link && MayStay(*link))) Violated("a file that no object needs: ", name.path);
      const std::pair key(name.info.device, name.info.inode);
      allocated_bytes[key] = name.info.allocated_bytes;
      uint64_t object_bytes = link ? link->object_bytes : 0;
      if (found != live.end()) {
        object_bytes = kLengthsBytes + found->second->address.size() + 1 + found->second->payload.size();
      }
      live_bytes[key] += link ? RecordBytes(object_bytes) : name.info.allocated_bytes;
    }
  }
  for (const auto& [key, bytes] : allocated_bytes) {
    if (bytes > live_bytes[key]) {
      Violated("inode ", key.second, " holds ", bytes, " bytes for ", live_bytes[key], " of live objects");
    }
  }
  for (size_t i = 0; i < objects_.size(); ++i) {
    if (objects_[i].state == Object::kSpilled) Restore(workers_[i % workers_.size()].get(), i, true);
  }
}

void World::DeleteAll() {
  if (violation_.empty()) Delete(workers_.back().get(), Known(Object::kSpilled));
}

void World::JudgeEmpty() {
  if (!violation_.empty()) return;
  bool leaks = false;
  for (const std::string& node : options_.node_directories) {
    for (const MemoryFileSystem::Name& name : real_.Tree(node)) {
      const auto link = ParseLinkName(FileOf(name.path));
      if (!name.is_directory && link && MayStay(*link)) leaks = true;
    }
  }
  if (leaks) return;
  // An empty directory that could not be removed is tried again only if something else is done in it.
  const bool directories_may_stay = unmounts_ || fault_permille_[size_t(Operation::kMakeDirectory)] > 0 ||
                                    fault_permille_[size_t(Operation::kRemoveDirectory)] > 0 ||
                                    fault_permille_[size_t(Operation::kList)] > 0;
  for (const std::string& node : options_.node_directories) {
    for (const MemoryFileSystem::Name& name : real_.Tree(node)) {
      if (!name.is_directory || !directories_may_stay) Violated("left when all is deleted: ", name.path);
    }
  }
  for (const auto& worker : workers_) worker->engine->Close();
  for (const auto& worker : workers_) worker->engine.reset();
  for (size_t i = 0; i < disks_.size(); ++i) {
    if (disks_[i]->used_blocks != 0) Violated("disk ", i, " still has ", disks_[i]->used_blocks, " blocks in use");
  }
}

}  // namespace mantaray::spill::world
