// One fetch of a package for all who ask for it at the same time.
//
// When a job starts, every node fetches its `working_dir`, a package of up to 500 MB that Ray keeps in the GCS's
// key-value store. Each fetch would travel through a relay as a message of its own, which gRPC holds whole. So the
// first call for a package goes to the upstream, calls with the same request and the same credentials that come
// meanwhile wait for it, and all of them get the same bytes, which are there once. Fetches of different packages follow
// one another, and begin only while there is room for their bytes.
//
// Nothing is kept when the call is over: this is no cache. A package's key names its content, so what the first call
// found is what the others would have found. Only a reply that carries a package is shared. After any other one (there
// is no such package, the upstream failed, the first caller left) the others go on their own.
//
// All of it on one thread.

#ifndef MANTARAY_RELAY_PACKAGE_FLIGHTS_H_
#define MANTARAY_RELAY_PACKAGE_FLIGHTS_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace mantaray::relay {

inline constexpr std::string_view kFetchMethod = "/ray.rpc.InternalKVGcsService/InternalKVGet";

// Whether this is a call for a package. `request`: its message, as protobuf has it.
inline bool AsksForPackage(std::string_view method, std::string_view request) {
  return method == kFetchMethod && request.find("gcs://_ray_pkg_") != std::string_view::npos;
}

// A call that asks for a package. `Reply` is whatever the calls share.
template <typename Reply>
class PackageCall {
 public:
  virtual ~PackageCall() = default;
  // Ask the upstream. Tell PackageFlights when that is over.
  virtual void Fetch() = 0;
  // Here is what another call has fetched.
  virtual void Take(const Reply& reply) = 0;
};

// Calls are known by their address and must Leave before they are gone.
template <typename Reply>
class PackageFlights {
 public:
  using Call = PackageCall<Reply>;

  // Args: `has_room` tells whether another fetch may begin; call Resume when it changes to true.
  explicit PackageFlights(std::function<bool()> has_room) : has_room_(std::move(has_room)) {}

  // Begins the next fetch if there is room; `anyhow`: even if there is none.
  void Resume(bool anyhow = false) {
    if (in_flight_.has_value() || waiting_.empty() || (!anyhow && !has_room_())) {
      return;
    }
    in_flight_ = waiting_.front();
    waiting_.pop_front();
    flights_[*in_flight_].leader->Fetch();
  }
  // Whether a fetch waits for room.
  bool waits() const { return !in_flight_.has_value() && !waiting_.empty(); }

  // A call asks for a package. `key`: the same for those who may share a reply. Calls Fetch or Take, now or later.
  void Join(const std::string& key, Call* call) {
    Flight& flight = flights_[key];
    keys_[call] = key;
    if (flight.leader == nullptr) {
      flight.leader = call;
      waiting_.push_back(key);
      Resume();
    } else {
      flight.followers.push_back(call);
      ++shared_;
    }
  }

  // The call that fetched has its reply; null if it carries no package. Nothing for a call that fetches none.
  void Landed(Call* call, const Reply* reply) {
    const auto known = keys_.find(call);
    if (known == keys_.end()) {
      return;
    }
    const std::string key = known->second;
    const auto flight = flights_.find(key);
    if (flight->second.leader != call) {
      return;
    }
    const std::list<Call*> followers = std::move(flight->second.followers);
    flights_.erase(flight);
    keys_.erase(known);
    for (Call* follower : followers) {
      keys_.erase(follower);
    }
    Forget(key);
    for (Call* follower : followers) {
      if (reply != nullptr) {
        follower->Take(*reply);
      } else {
        // With a flight of their own: whoever asks again may share again.
        --shared_;
        Join(key, follower);
      }
    }
    Resume();
  }

  // The call is over, in whichever way. Nothing for one that is not here.
  void Leave(Call* call) {
    const auto known = keys_.find(call);
    if (known == keys_.end()) {
      return;
    }
    Flight& flight = flights_[known->second];
    if (flight.leader == call) {
      Landed(call, nullptr);
    } else {
      flight.followers.remove(call);
      keys_.erase(known);
    }
  }

  // Calls that waited for another one instead of asking the upstream.
  uint64_t shared() const { return shared_; }

 private:
  struct Flight {
    Call* leader = nullptr;
    std::list<Call*> followers;
  };

  void Forget(const std::string& key) {
    if (in_flight_ == key) {
      in_flight_.reset();
    }
    std::erase(waiting_, key);
  }

  std::function<bool()> has_room_;
  std::map<std::string, Flight> flights_;
  std::map<Call*, std::string> keys_;
  std::deque<std::string> waiting_;  // flights that have yet to start, in the order in which they came
  std::optional<std::string> in_flight_;
  uint64_t shared_ = 0;
};

}  // namespace mantaray::relay

#endif  // MANTARAY_RELAY_PACKAGE_FLIGHTS_H_
