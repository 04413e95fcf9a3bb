// The half of a relay that nodes see: the listener with its connections, the proxy, the sync service, and the two loops
// that run them. It is made when the relay begins to listen and destroyed when the relay stops to.

#ifndef MANTARAY_RELAY_SERVING_H_
#define MANTARAY_RELAY_SERVING_H_

#include <grpcpp/channel.h>
#include <grpcpp/server.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "mantaray/relay/credentials.h"
#include "mantaray/relay/event_loop.h"
#include "mantaray/relay/metrics.h"
#include "mantaray/relay/options.h"
#include "mantaray/relay/proxy.h"
#include "mantaray/relay/pulse.h"
#include "mantaray/relay/sync_service.h"

namespace mantaray::relay {

class Serving {
 public:
  // How the relay reaches its upstream. Channels live longer than the listener.
  struct Channels {
    std::vector<std::shared_ptr<grpc::Channel>> calls;
    std::shared_ptr<grpc::Channel> sync;
  };

  Serving(const Options& options, const Credentials& credentials, const Channels& channels, Metrics* metrics);
  // Stop must have been called if Start succeeded.
  ~Serving();

  // Listens on this address, HOST:PORT. Returns an error, or an empty string.
  std::string Start(const std::string& listen);
  // Where it listens; of interest when it was told port 0.
  int port() const { return port_; }
  const std::string& relay_id() const { return sync_->relay_id(); }

  // Ends the sync streams at once and other calls after so many milliseconds, then closes the listener and every
  // connection. Returns whether all calls ended; if not, only the end of the process frees what they hold.
  bool Stop(int64_t drain_ms);

  // Whether its loops run. One thread asks.
  bool Alive();
  // Hands on what the sync service tells; never if the loop is stuck or ends.
  void AskMetrics(std::function<void(std::string)> tell);
  void AskStatus(std::function<void(std::string)> tell);

 private:
  bool WaitUntilIdle();
  void StopLoops();

  const Options& options_;
  const Credentials& credentials_;
  Channels channels_;
  Metrics* metrics_;
  int port_ = 0;
  std::unique_ptr<EventLoop> proxy_loop_;
  std::unique_ptr<EventLoop> sync_loop_;
  std::unique_ptr<Pulse<EventLoop>> proxy_pulse_;
  std::unique_ptr<Pulse<EventLoop>> sync_pulse_;
  std::unique_ptr<SyncService> sync_;
  std::unique_ptr<Proxy> proxy_;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace mantaray::relay

#endif  // MANTARAY_RELAY_SERVING_H_
