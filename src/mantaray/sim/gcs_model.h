// A model of the GCS's side of resource-view sync, as measured with the real one.
//
// - The newest version of a message wins; an older or an equal one is dropped.
// - A new stream is told all that the GCS has, views and commands, except what comes from its own node.
// - Nothing goes back to the stream that brought it, nor to the node that it is about.
// - A second stream under an id ends the first. The end of a stream erases what the GCS has of that id, and nothing
// else.
// - A stream that withdraws a node is a stream like any other: the GCS answers it with all that it has.
// - A GCS that restarts is empty.
//
// It dies of frames that the real one dies of; Receive names them. Pure: who owns the model moves the bytes.

#ifndef MANTARAY_SIM_GCS_MODEL_H_
#define MANTARAY_SIM_GCS_MODEL_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace mantaray::sim {

class GcsModel {
 public:
  // Args: `bare`: whether it speaks bare messages; `index_of`: which node an id of 28 bytes belongs to.
  GcsModel(bool bare, std::function<uint32_t(std::string_view)> index_of)
      : bare_(bare), index_of_(std::move(index_of)) {}

  // A stream opens. Returns the stream of the same id that it ends.
  std::optional<uint32_t> Open(uint32_t stream, uint32_t who);
  // A stream ends.
  void End(uint32_t stream);
  // Takes in a frame of a stream; adds the streams that have something to take to `ready`. Returns of what it dies, or
  // nothing.
  std::string Receive(uint32_t stream, std::string_view frame, std::vector<uint32_t>* ready);
  // The messages that a stream is sent next; bare messages go one by one.
  std::vector<std::string> Take(uint32_t stream);
  // Loses everything; returns the streams that end.
  std::vector<uint32_t> Restart();

  bool has_stream(uint32_t stream) const { return streams_.contains(stream); }
  // The version of a node's view that it has; 0: none.
  uint32_t VersionOf(uint32_t node) const;
  uint64_t messages_in() const { return messages_in_; }
  uint64_t messages_out() const { return messages_out_; }

 private:
  struct Entry {
    uint64_t version = 0;
    std::string message;
  };
  struct Stream {
    uint32_t who = 0;
    std::set<uint32_t> views_due;
    std::deque<std::string> commands_due;
  };

  const bool bare_;
  const std::function<uint32_t(std::string_view)> index_of_;
  std::map<uint32_t, Entry> views_;
  std::map<uint32_t, Entry> commands_;
  std::map<uint32_t, Stream> streams_;
  uint64_t messages_in_ = 0;
  uint64_t messages_out_ = 0;
};

}  // namespace mantaray::sim

#endif  // MANTARAY_SIM_GCS_MODEL_H_
