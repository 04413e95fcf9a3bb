// What raylets answer when the GCS asks them: a server for all simulated nodes, on every address of this machine.
//
//   raylet_answers
//
// Takes any port and prints it. It answers a health check with "serving", and every other call with an empty message:
// for the load that the GCS polls, that is a node without work. Ends with standard input.

#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <sys/resource.h>

#include <cstdio>
#include <memory>
#include <string>

namespace {

grpc::ByteBuffer Bytes(const std::string& text) {
  const grpc::Slice slice(text);
  return {&slice, 1};
}

class Answer final : public grpc::ServerGenericBidiReactor {
 public:
  explicit Answer(bool is_health) : answer_(Bytes(is_health ? std::string("\x08\x01", 2) : std::string())) {
    StartRead(&request_);
  }
  void OnReadDone(bool ok) override {
    if (ok) {
      StartWriteAndFinish(&answer_, grpc::WriteOptions(), grpc::Status::OK);
    } else {
      Finish(grpc::Status::CANCELLED);
    }
  }
  void OnDone() override { delete this; }

 private:
  grpc::ByteBuffer request_;
  grpc::ByteBuffer answer_;
};

class Raylets final : public grpc::CallbackGenericService {
  grpc::ServerGenericBidiReactor* CreateReactor(grpc::GenericCallbackServerContext* context) override {
    return new Answer(context->method().starts_with("/grpc.health."));
  }
};

}  // namespace

int main() {
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
  int port = 0;
  Raylets raylets;
  grpc::ServerBuilder builder;
  builder.AddListeningPort("0.0.0.0:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterCallbackGenericService(&raylets);
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr) {
    std::fprintf(stderr, "raylet_answers: cannot listen\n");
    return 1;
  }
  std::printf("%d\n", port);
  std::fflush(stdout);
  while (std::getchar() != EOF) {
  }
  server->Shutdown();
  return 0;
}
