// Cleaning up after IO workers of this node that died.
//
// What a dead worker left half made is removed, its pending punches are done, and the objects of its batches are
// remembered: the report of its last batches may never have reached the raylet, which then spills the same objects
// again. Their first copies are dropped at that moment. (The raylet never spills an object again whose URL it knows.)
// The raylet may notice the death before the host does, so what this worker spilled lately is remembered too, and the
// first copies of that are dropped when the dead worker is found.
//
// Survives: a host or a directory that cannot be asked (the worker counts as alive and is looked at again later), other
// workers that sweep at the same time. Not thread-safe.

#ifndef MANTARAY_SPILL_SWEEPER_H_
#define MANTARAY_SPILL_SWEEPER_H_

#include <cstdint>
#include <deque>
#include <map>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "mantaray/common/clock.h"
#include "mantaray/spill/directory.h"
#include "mantaray/spill/file_system.h"
#include "mantaray/spill/format.h"
#include "mantaray/spill/host.h"
#include "mantaray/spill/journal.h"
#include "mantaray/spill/names.h"
#include "mantaray/spill/reclaimer.h"
#include "mantaray/spill/writer.h"

namespace mantaray::spill {

class Sweeper {
 public:
  // How long, in milliseconds, and how many objects that this worker spilled are remembered.
  static constexpr int64_t kRecentMs = 60000;
  static constexpr size_t kMaxRecent = size_t{1} << 16;

  Sweeper(FileSystem* fs, const Clock* clock, Host* host, Reclaimer* reclaimer, Journal* journal,
          DirectorySet* directories, const ProcessId& self)
      : fs_(fs),
        clock_(clock),
        host_(host),
        reclaimer_(reclaimer),
        journal_(journal),
        directories_(directories),
        self_(self) {}

  // Looks for workers that died since the last call.
  void Sweep();

  // These objects were spilled just now, under these URLs.
  void Spilled(std::span<const ObjectToSpill> objects, std::span<const std::string> urls);

  // The URLs of copies that nobody needs, found since the last call. The caller deletes them, or enters them in the
  // journal, and then calls TookOver.
  std::vector<std::string> TakeUnneeded();
  // What dead workers owed when TakeUnneeded was called is owed by this worker.
  void TookOver();

 private:
  void SweepNode(size_t directory);
  void SweepJournals();
  bool SweepWorker(const std::string& node_directory, const std::string& worker_name);
  bool Suspect(const ObjectId& object_id, const std::string& path);
  bool Scrub(size_t directory);
  void ForgetOld();

  FileSystem* const fs_;
  const Clock* const clock_;
  Host* const host_;
  Reclaimer* const reclaimer_;
  Journal* const journal_;
  DirectorySet* const directories_;
  const ProcessId self_;
  // What needs no further look: the directories of dead workers that were swept, by node directory.
  std::map<std::string, std::set<ProcessId>> swept_;
  std::set<size_t> to_scrub_;                      // directories
  std::multimap<ObjectId, std::string> suspects_;  // links
  std::map<ObjectId, std::string> recent_;         // links of this worker
  std::deque<std::pair<int64_t, ObjectId>> recent_since_;
  std::set<std::string> unneeded_;
  // Dead workers whose journals were read, and those of which the caller has what they owed.
  std::set<ProcessId> debtors_;
  std::set<ProcessId> taking_over_;
};

}  // namespace mantaray::spill

#endif  // MANTARAY_SPILL_SWEEPER_H_
