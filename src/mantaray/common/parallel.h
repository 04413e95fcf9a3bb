// An interface for doing two things at once. It is passed as an argument, so a core needs no threads of its own.

#ifndef MANTARAY_COMMON_PARALLEL_H_
#define MANTARAY_COMMON_PARALLEL_H_

#include <functional>

namespace mantaray {

class Parallel {
 public:
  virtual ~Parallel() = default;
  // Runs both, perhaps at the same time, and returns when both are done. The second function may begin late, so if work
  // can be divided, both functions should take it piece by piece. Thread-safe.
  virtual void RunBoth(const std::function<void()>& first, const std::function<void()>& second) = 0;
  // Runs the task at once or later. Tasks run one after another, in the order of the calls. Thread-safe.
  virtual void Start(std::function<void()> task) = 0;
};

// Runs everything on the calling thread, one after the other.
class Sequential : public Parallel {
 public:
  void RunBoth(const std::function<void()>& first, const std::function<void()>& second) override {
    first();
    second();
  }
  void Start(std::function<void()> task) override { task(); }
};

}  // namespace mantaray

#endif  // MANTARAY_COMMON_PARALLEL_H_
