// Simulated raylets that publish their resource views through sync streams and watch for everybody else's.
//
// Every node has a TCP connection and a gRPC stream of its own, publishes at a steady rate (phases random, from the
// seed) or all nodes at once, and holds the newest view of every other node, as a raylet does. A node that may not
// write (its stream is full) keeps only its newest view, as a raylet does too.
//
// *Staleness* of an update at a receiver: the time from the update's publication until the receiver holds it *or a
// newer one of the same node*. So an update that was skipped by coalescing counts with the time after which it no
// longer mattered, and one that never arrived counts with the time until the measurement gave up.
//
// One thread, the monotonic clock. What happens is told as JSON lines on stdout, so that a driver can sample the
// CPU time of other processes at the same moments; the last line is the result.

#ifndef MANTARAY_BENCHMARKS_SYNC_STORM_STORM_H_
#define MANTARAY_BENCHMARKS_SYNC_STORM_STORM_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "benchmarks/sync_storm/histogram.h"
#include "benchmarks/sync_storm/sync_messages.h"
#include "benchmarks/sync_storm/transport.h"

namespace mantaray::storm {

struct StormOptions {
  std::vector<std::string> targets;
  bool grpc_library = false;  // which transport
  uint32_t nodes = 50;
  Dialect dialect = Dialect::kBatch;
  double hz = 1.0;
  double warmup_s = 2.0;
  double seconds = 10.0;  // measured; 0: no steady load
  uint32_t bursts = 3;
  // How long to wait for everybody to hold everybody's newest view: at the start, after the steady load, in a burst.
  double join_s = 60.0;
  double settle_s = 15.0;
  double burst_s = 30.0;
  size_t message_bytes = 285;   // about, on the wire
  uint32_t material_every = 1;  // of so many views of a node, one differs in more than object-store bytes and idle time
  uint64_t seed = 1;
  std::string token;  // sent as `authorization: Bearer <token>` if not empty
  uint32_t window_bytes = 1 << 20;
};

class Storm : private Transport::Listener {
 public:
  explicit Storm(StormOptions options);
  ~Storm() override = default;
  Storm(const Storm&) = delete;
  Storm& operator=(const Storm&) = delete;

  // Runs the whole programme: join, steady load, settling, bursts. Fails when a stream ends or breaks the protocol.
  absl::Status Run();

 private:
  // A raylet: its stream, what it published, what it has seen of the others.
  struct Node {
    bool unsent = false;  // its newest view could not be written yet
    uint32_t index = 0;
    std::string id;
    std::vector<int64_t> published_us;  // when sequence number i + 1 was published
    std::vector<uint32_t> seen;         // newest sequence seen of each node
    uint32_t holders = 0;               // how many others hold this node's newest view
  };

  struct Counters {
    uint64_t sent = 0;
    uint64_t not_sent = 0;  // replaced by a newer view before its stream had room
    uint64_t messages = 0;
    uint64_t batches = 0;  // gRPC messages received
    uint64_t bytes = 0;
    uint64_t out_of_date = 0;  // not newer than what the receiver had
    uint64_t own = 0;          // a node got its own message back
    uint64_t foreign = 0;      // from nodes that are not ours
    uint64_t damaged = 0;      // payloads that are not what was sent
    uint64_t cpu_us = 0;       // of this process
  };

  absl::Status Connect();
  absl::Status Join();
  absl::Status Steady();
  absl::Status Bursts();
  void Report() const;

  void Publish(Node& node, int64_t now_us);
  void TrySend(Node& node);
  void OnMessage(uint32_t node, std::string_view data) override;
  void OnRoom(uint32_t node) override { TrySend(nodes_[node]); }
  Histogram& StalenessOf(uint32_t origin, uint64_t sequence);
  void Take(Node& receiver, const SyncMessage& message, int64_t now_us);
  void CheckPayload(const SyncMessage& message, uint32_t origin, uint64_t sequence);
  // Publishes what is due, moves bytes, until the time is over or `done`.
  absl::Status Pump(int64_t until_us, absl::FunctionRef<bool()> done);
  void PublishDue(int64_t now_us);
  bool Converged() const { return up_to_date_ == nodes_.size(); }
  // Counts updates that were measured and never seen, with the time until now.
  void CountMissing(int64_t now_us);

  const StormOptions options_;
  size_t padding_bytes_ = 0;
  std::unique_ptr<Transport> transport_;
  std::vector<Node> nodes_;
  bool unreadable_ = false;  // something arrived that is neither a message nor a batch
  size_t up_to_date_ = 0;    // nodes whose newest view everybody holds
  std::mt19937_64 random_;

  // The steady load: node order_[k] publishes at phases_us_[k] of every period; next_ is whose turn it is.
  bool publishing_ = false;
  int64_t period_us_ = 0;
  int64_t period_start_us_ = 0;
  std::vector<int64_t> phases_us_;
  std::vector<uint32_t> order_;
  size_t next_ = 0;

  // Updates published in [from, to) are measured.
  int64_t measured_from_us_ = INT64_MAX;
  int64_t measured_to_us_ = INT64_MAX;
  Histogram staleness_;        // of views that a scheduler cares for
  Histogram noise_staleness_;  // of the others
  Histogram lateness_;         // of this program in publishing
  Counters counters_;
  Counters measured_;
  uint64_t missing_ = 0;
  double join_ms_ = -1;
  uint64_t lost_at_join_ = 0;  // pairs of nodes of which one had not seen the other in time
  double settle_ms_ = -1;
  std::vector<double> burst_ms_;  // -1: not within the limit
};

}  // namespace mantaray::storm

#endif  // MANTARAY_BENCHMARKS_SYNC_STORM_STORM_H_
