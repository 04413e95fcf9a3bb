// What the relay counts, and how it tells: Prometheus text. All methods may be called from any thread.

#ifndef MANTARAY_RELAY_METRICS_H_
#define MANTARAY_RELAY_METRICS_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "mantaray/relay/shared_methods.h"

namespace mantaray::relay {

// A histogram with fixed upper bounds.
class Histogram {
 public:
  // The bounds must live as long, ascending.
  explicit Histogram(std::span<const double> bounds);
  void Observe(double value);
  // Adds the series to a text: `name_bucket`, `name_sum`, `name_count`.
  void Render(std::string_view name, std::string* text) const;

 private:
  std::span<const double> bounds_;
  std::vector<std::atomic<uint64_t>> counts_;  // one more than bounds
  std::atomic<uint64_t> sum_micro_{0};
};

// Starts a metric in a text: its help and type.
void RenderHeader(std::string_view name, std::string_view type, std::string_view help, std::string* text);
// Adds one sample; `labels` with its braces, or empty.
void RenderSample(std::string_view name, std::string_view labels, double value, std::string* text);

class Metrics {
 public:
  Metrics();

  void ProxyCallStarted() { in_flight_.fetch_add(1, std::memory_order_relaxed); }
  // Args: the code it ended with, and for how many seconds it was under way.
  void ProxyCallEnded(int code, double took_s);
  void RingRefused() { rings_refused_.fetch_add(1, std::memory_order_relaxed); }

  // The relay begins to listen, or closed its listener because the upstream is gone.
  void SetListening(bool listening) { listening_.store(listening); }
  bool listening() const { return listening_.load(); }
  void UpstreamGivenUp() { upstream_given_up_.fetch_add(1, std::memory_order_relaxed); }

  void AddHeldBytes(int64_t bytes) { held_bytes_.fetch_add(bytes, std::memory_order_relaxed); }
  int64_t held_bytes() const { return held_bytes_.load(std::memory_order_relaxed); }
  // A call got what another one had fetched; see package_flights.h.
  void PackageShared() { packages_shared_.fetch_add(1, std::memory_order_relaxed); }
  // A read that may be shared came; one left for the upstream, for one call or for many. `method`: an index of
  // kSharedMethods.
  void ReadCame(size_t method) { reads_[method].fetch_add(1, std::memory_order_relaxed); }
  void ReadLeft(size_t method) { reads_asked_[method].fetch_add(1, std::memory_order_relaxed); }
  // Counts a call that was refused because too many were in flight, one that was ended or refused because the memory
  // was used up, and a watch that was refused because too many clients watch the relay's health.
  void CallRefused() { calls_refused_.fetch_add(1, std::memory_order_relaxed); }
  void CallEndedForMemory() { ended_for_memory_.fetch_add(1, std::memory_order_relaxed); }
  void WatchRefused() { watches_refused_.fetch_add(1, std::memory_order_relaxed); }

  int64_t in_flight() const { return in_flight_.load(std::memory_order_relaxed); }

  std::string Render() const;

 private:
  static constexpr int kCodes = 17;

  std::atomic<int64_t> in_flight_{0};
  std::array<std::atomic<uint64_t>, kCodes> ended_{};
  std::atomic<uint64_t> rings_refused_{0};
  std::atomic<int64_t> held_bytes_{0};
  std::atomic<uint64_t> packages_shared_{0};
  std::array<std::atomic<uint64_t>, kSharedMethods.size()> reads_{};
  std::array<std::atomic<uint64_t>, kSharedMethods.size()> reads_asked_{};
  std::atomic<uint64_t> calls_refused_{0};
  std::atomic<uint64_t> watches_refused_{0};
  std::atomic<uint64_t> ended_for_memory_{0};
  std::atomic<bool> listening_{false};
  std::atomic<uint64_t> upstream_given_up_{0};
  Histogram proxy_seconds_;
};

}  // namespace mantaray::relay

#endif  // MANTARAY_RELAY_METRICS_H_
