// Reads that share flights: which calls may, when they leave, and how many did. See read_gate.h and read_flight.h.

#ifndef MANTARAY_RELAY_SHARED_READS_H_
#define MANTARAY_RELAY_SHARED_READS_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "mantaray/relay/event_loop.h"
#include "mantaray/relay/metrics.h"
#include "mantaray/relay/read_flight.h"
#include "mantaray/relay/read_gate.h"
#include "mantaray/relay/shared_methods.h"

namespace mantaray::relay {

class ProxyCall;

// Whether a call waits for news by its nature, and so tells nothing about what its client does.
bool IsPoll(std::string_view path);

class SharedReads {
 public:
  struct Options {
    SharedMethodSet methods;  // that are shared
    int64_t window_ms = 100;  // when many ask the same, a read waits for at most so long
    int64_t burst = 20;       // reads of one kind that leave at once after a rest
  };
  // Begins a flight with these passengers, over the connection of this client. `ended`: to be called at its end.
  using Begin = std::function<ReadFlight*(const std::string& peer, const ReadFlight::Question& question,
                                          std::vector<ReadPassenger*> passengers, std::function<void()> ended)>;

  SharedReads(EventLoop* loop, Metrics* metrics, const Options& options, Begin begin);

  // A call that may change something at the GCS is under way. `peer`: the client's connection, the same in both.
  void WriteBegins(const std::string& peer) { ++writes_[peer]; }
  void WriteEnded(const std::string& peer);

  // Whether a read of this client may share a flight now.
  bool Shares(size_t method, const std::string& peer) const {
    return options_.methods.test(method) && !writes_.contains(peer);
  }
  // Lets the call wait until it lands. `key`: as ReadGate has it.
  void Join(const std::string& key, ProxyCall* call);
  // The call is over. Args: `flight`: its own if it has left, else null.
  void Leave(ProxyCall* call, ReadFlight* flight);

  // Whether no flight is under way.
  bool idle() const { return flights_ == 0; }

 private:
  void TakeOff(const std::vector<ProxyCall*>& calls);
  void TakeOffDue();
  void ScheduleNext(int64_t now_ms);

  EventLoop* loop_;
  Metrics* metrics_;
  const Options options_;
  const Begin begin_;
  ReadGate<ProxyCall*> gate_;
  std::unordered_map<std::string, int> writes_;  // under way, by peer
  size_t flights_ = 0;
  bool deferred_ = false;
  bool scheduled_ = false;
};

}  // namespace mantaray::relay

#endif  // MANTARAY_RELAY_SHARED_READS_H_
