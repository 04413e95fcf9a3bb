// Cleaning up after IO workers of this node that died.
//
// What a dead worker left half made is removed, its pending punches are done, and the objects of its batches are
// remembered: the report of its last batches may never have reached the raylet, which then spills the same objects
// again. Their first copies are dropped at that moment. (The raylet never spills an object again whose URL it knows.)
//
// Survives: a host or a directory that cannot be asked (the worker counts as alive and is looked at again later), other
// workers that sweep at the same time. Not thread-safe.

#ifndef MANTARAY_SPILL_SWEEPER_H_
#define MANTARAY_SPILL_SWEEPER_H_

#include <map>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "mantaray/spill/file_system.h"
#include "mantaray/spill/format.h"
#include "mantaray/spill/host.h"
#include "mantaray/spill/names.h"
#include "mantaray/spill/reclaimer.h"
#include "mantaray/spill/writer.h"

namespace mantaray::spill {

class Sweeper {
 public:
  Sweeper(FileSystem* fs, Host* host, Reclaimer* reclaimer, const std::vector<std::string>& node_directories,
          const ProcessId& self)
      : fs_(fs), host_(host), reclaimer_(reclaimer), node_directories_(node_directories), self_(self) {}

  // Looks for workers that died since the last call.
  void Sweep();

  // These objects were spilled just now: drops what dead workers had written of them.
  void DropFirstCopies(std::span<const ObjectToSpill> objects);

 private:
  bool SweepWorker(const std::string& node_directory, const std::string& worker_name);
  void Scrub(const std::string& node_directory);

  FileSystem* const fs_;
  Host* const host_;
  Reclaimer* const reclaimer_;
  const std::vector<std::string> node_directories_;
  const ProcessId self_;
  // What needs no further look: the directories of dead workers that were swept, by node directory.
  std::map<std::string, std::set<ProcessId>> swept_;
  std::map<ObjectId, std::string> suspects_;  // links
};

}  // namespace mantaray::spill

#endif  // MANTARAY_SPILL_SWEEPER_H_
