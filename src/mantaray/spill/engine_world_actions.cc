// What a raylet asks of workers, and what happens to disks and files.

#include <algorithm>

#include "mantaray/spill/engine_world_parts.h"

namespace mantaray::spill::world {

void World::Replace(Worker* worker) {
  ++outcome_.crashes;
  // Our readers hold files and buffers of the engine.
  std::erase_if(readers_, [&](const Reader& reader) { return reader.ours.has_value(); });
  worker->engine.reset();
  host_.dead.insert(worker->self.pid);
  for (auto& place : workers_) {
    if (place.get() == worker) place = MakeWorker();
  }
}

void World::Close(Worker* worker) {
  Trace(worker->self.pid, " close");
  clock_.AdvanceMs(worker->engine->CloseDelayMs());
  worker->engine->Close();
  worker->killed = true;
}

std::vector<size_t> World::Known(int state) const {
  std::vector<size_t> found;
  for (size_t i = 0; i < objects_.size(); ++i) {
    if (objects_[i].state == state && !objects_[i].busy) found.push_back(i);
  }
  return found;
}

std::optional<size_t> World::OneOf(const std::vector<size_t>& choices) {
  if (choices.empty()) return std::nullopt;
  return choices[Below(choices.size())];
}

std::string World::MakePayload() {
  const bool large = large_objects_ && Chance(400);
  std::string payload(large ? 66000 + Below(60000) : Below(Chance(700) ? 3500 : 12000), '\0');
  uint64_t word = random_();
  for (char& byte : payload)
    byte = static_cast<char>((word = word * 6364136223846793005u + 1442695040888963407u) >> 56);
  return payload;
}

void World::Spill(Worker* worker) {
  std::vector<size_t> chosen;
  const uint64_t count = 1 + Below(8);
  for (size_t waiting : Known(Object::kInMemory)) {
    if (chosen.size() < count && Chance(700)) chosen.push_back(waiting);
  }
  while (chosen.size() < count) {
    Object object;
    std::string id(kObjectIdBytes, '\0');
    for (char& byte : id) byte = static_cast<char>(random_());
    object.id = *ObjectId::FromBinary(id);
    object.address = absl::StrCat("owner-", Below(3));
    object.payload = MakePayload();
    chosen.push_back(objects_.size());
    objects_.push_back(std::move(object));
  }
  std::vector<ObjectToSpill> views;
  for (size_t i : chosen) {
    objects_[i].busy = true;
    views.push_back({objects_[i].id, objects_[i].address, "m", objects_[i].payload});
  }
  Trace(worker->self.pid, " spill ", chosen.size());
  const auto urls = worker->engine->Spill(views);
  // A worker that dies now has reported nothing.
  if (Chance(crash_permille_ / 10)) worker->killed = true;
  for (size_t i = 0; i < chosen.size(); ++i) {
    Object& object = objects_[chosen[i]];
    object.busy = false;
    if (worker->killed || !urls.ok() || i >= urls->size()) continue;
    object.state = Object::kSpilled;
    object.url = (*urls)[i];
    object.path = ParseUrl(object.url)->path;
    ++users_[object.path];
  }
  Trace("-> ", urls.ok() ? absl::StrCat(urls->size(), " urls") : urls.status().ToString());
}

void World::Restore(Worker* worker) {
  if (const auto chosen = OneOf(Known(Object::kSpilled)))
    Restore(worker, *chosen, Chance(objects_[*chosen].payload.size() < 65536 ? 500 : 100));
}

void World::Restore(Worker* worker, size_t number, bool at_once) {
  const Object before = objects_[number];
  Trace(worker->self.pid, " open ", Hex(before.id).substr(0, 8));
  auto reader = worker->engine->Open(before.url, before.id);
  const Object& object = objects_[number];
  // It may have been damaged and rebuilt while it was opened.
  const bool same =
      object.state == before.state && object.damages == before.damages && object.damaged == before.damaged;
  if (worker->killed) return;
  if (!reader.ok()) {
    Trace("-> ", reader.status().ToString());
    if (same) JudgeError(object, reader.status(), "opening");
    return;
  }
  Reader restore{number, std::move(*reader), std::nullopt, "", object.damaged || object.state != Object::kSpilled};
  if (at_once) {
    // It may also have been damaged before, and rebuilt while it was opened.
    restore.earlier = object.damages != before.damages || object.damaged != before.damaged;
    Finish(&restore);
  } else {
    restore.earlier = true;
    readers_.push_back(std::move(restore));
  }
}

void World::OpenAsRaylet() {
  const auto chosen = OneOf(Known(Object::kSpilled));
  if (!chosen || !vanished_.empty()) return;
  const Object& object = objects_[*chosen];
  auto file = real_.Open(object.path, /*writable=*/false);
  if (object.damaged) return;
  if (!file.ok()) return Violated("the file of ", Hex(object.id).substr(0, 8), " is gone");
  readers_.push_back({*chosen, std::nullopt, std::move(*file), "", false});
}

absl::StatusOr<OpenFiles> World::FilesOfRaylet() {
  if (!raylet_is_seen_) return absl::UnavailableError("the raylet cannot be looked at");
  OpenFiles files;
  for (const Reader& reader : readers_) {
    if (!reader.raylets) continue;
    const FileInfo info = *real_.Stat(reader.raylets->fd());
    files.emplace(info.device, info.inode);
  }
  return files;
}

void World::StepReader() {
  if (readers_.empty()) return;
  const size_t at = Below(readers_.size());
  Reader reader = std::move(readers_[at]);
  readers_.erase(readers_.begin() + static_cast<std::ptrdiff_t>(at));
  Finish(&reader);
}

void World::Delete(Worker* worker) {
  std::vector<size_t> chosen;
  for (size_t number : Known(Object::kSpilled)) {
    if (chosen.size() < 4 && Chance(400)) chosen.push_back(number);
  }
  Delete(worker, chosen);
}

void World::Delete(Worker* worker, const std::vector<size_t>& chosen) {
  std::vector<std::string> urls = std::exchange(undeleted_, {});
  for (size_t number : chosen) {
    Object& object = objects_[number];
    object.state = Object::kDeleted;
    object.deleted_ms = clock_.NowMs();
    // The raylet asks for a file when none of its objects is left.
    if (--users_[object.path] == 0) urls.push_back(object.url);
  }
  Trace(worker->self.pid, " delete ", urls.size());
  const absl::Status status = worker->engine->Delete(urls);
  Trace("-> ", status.ToString());
  // The raylet asks the next worker when this one died.
  if (worker->killed || !status.ok()) undeleted_.insert(undeleted_.end(), urls.begin(), urls.end());
}

void World::DamageOne() {
  const auto chosen = OneOf(Known(Object::kSpilled));
  if (!chosen || objects_[*chosen].damaged || !vanished_.empty()) return;
  Object& object = objects_[*chosen];
  object.damaged = true;
  ++object.damages;
  Trace("damage ", Hex(object.id).substr(0, 8));
  if (Chance(300)) {
    real_.Unlink(object.path).IgnoreError();
    return;
  }
  const auto file = real_.Open(object.path, /*writable=*/true);
  if (!file.ok()) return;
  const uint64_t at =
      ParseUrl(object.url)->offset + Below(kLengthsBytes + object.address.size() + object.payload.size());
  char byte = 0;
  real_.Read(file->fd(), &byte, 1, at).IgnoreError();
  byte = static_cast<char>(byte ^ 0x10);
  std::vector<iovec> vectors{{&byte, 1}};
  real_.SetDirect(file->fd()).IgnoreError();
  real_.Write(file->fd(), &vectors, at).IgnoreError();
}

void World::Rebuild(Worker* worker) {
  std::vector<size_t> damaged;
  for (size_t number : Known(Object::kSpilled)) {
    if (objects_[number].damaged) damaged.push_back(number);
  }
  if (const auto chosen = OneOf(damaged)) Rebuild(worker, *chosen);
}

void World::Rebuild(Worker* worker, size_t number) {
  Object& object = objects_[number];
  if (object.former_payload.empty()) {
    object.former_payload = object.payload;
    if (Chance(300)) object.payload = MakePayload();
  }
  object.busy = true;
  Trace(worker->self.pid, " rebuild ", Hex(object.id).substr(0, 8), " ", object.payload.size());
  const ObjectId id = object.id;
  const std::string address = object.address, payload = object.payload, url = object.url;
  const absl::Status status = worker->engine->Replace(url, {id, address, "m", payload});
  objects_[number].busy = false;
  Trace("-> ", status.ToString());
  if (status.ok() && !worker->killed) objects_[number].damaged = false;
}

void World::Unmount() {
  vanished_ = vanished_.empty() ? absl::StrCat("/", Below(disks_.size()), "/") : "";
  Trace("unmounted: ", vanished_);
  for (const auto& worker : workers_) SetMounts(worker.get());
}

void World::SetMounts(Worker* worker) {
  worker->fs.vanished = vanished_;
  worker->fs.devices.clear();
  if (!vanished_.empty()) worker->fs.devices[vanished_.substr(0, vanished_.size() - 1)] = 99;
}

}  // namespace mantaray::spill::world
