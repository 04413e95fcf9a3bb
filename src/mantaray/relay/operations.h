// The base of objects that live for as long as gRPC may still call them.
//
// gRPC delivers an event for every operation that was begun, whatever happens to its connection, and calls the object
// that began it. Nobody else owns such an object: it counts its operations and deletes itself when the last one ends.

#ifndef MANTARAY_RELAY_OPERATIONS_H_
#define MANTARAY_RELAY_OPERATIONS_H_

namespace mantaray::relay {

// Not thread-safe: all operations begin and end on one thread.
class Operations {
 public:
  Operations(const Operations&) = delete;
  Operations& operator=(const Operations&) = delete;

 protected:
  Operations() = default;
  virtual ~Operations() = default;

  // Counts an operation that begins: one of gRPC, a timer, or deferred work.
  void BeginOne() { ++under_way_; }
  // Counts an operation that has ended. Each event handler calls this first. Returns true if it was the last operation:
  // then the object is deleted, and the caller must not touch it.
  bool EndOne() {
    if (--under_way_ > 0) {
      return false;
    }
    LastEnded();
    delete this;
    return true;
  }
  bool idle() const { return under_way_ == 0; }

 private:
  // Runs when the last operation has ended, before the object is deleted.
  virtual void LastEnded() {}

  int under_way_ = 0;
};

}  // namespace mantaray::relay

#endif  // MANTARAY_RELAY_OPERATIONS_H_
