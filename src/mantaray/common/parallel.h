// Doing two things at once, as something that is handed in: a core asks for it without knowing threads.

#ifndef MANTARAY_COMMON_PARALLEL_H_
#define MANTARAY_COMMON_PARALLEL_H_

#include <functional>

namespace mantaray {

class Parallel {
 public:
  virtual ~Parallel() = default;
  // Runs both, perhaps at the same time, and returns when both are done. The second may begin late, so work that can
  // be shared out is better taken piece by piece by both. Thread-safe.
  virtual void RunBoth(const std::function<void()>& first, const std::function<void()>& second) = 0;
  // Runs the task, at once or later, one after the other in the order of the calls. Thread-safe.
  virtual void Start(std::function<void()> task) = 0;
};

// One after the other.
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
