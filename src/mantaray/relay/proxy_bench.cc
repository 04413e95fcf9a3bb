// What a relay adds to a call: echo calls at a steady rate, direct and through relays in turn, and thousands of calls
// that wait at the same time. The server, the client and the relays share the machine's cores.
//
//   proxy_bench SERVER_PORT RELAY_PORT[,RELAY_PORT...] CALLS_PER_S SECONDS LONG_POLLS
//
// Start it first: it serves on SERVER_PORT, says "ready", and begins when a line arrives on standard input. Prints
// JSON.

#include <grpcpp/alarm.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

namespace {

using SteadyClock = std::chrono::steady_clock;

grpc::ByteBuffer Bytes(size_t size) {
  const std::string text(size, 'x');
  const grpc::Slice slice(text);
  return grpc::ByteBuffer(&slice, 1);
}

// Answers /b/Echo at once and /b/Poll when `long_polls` of them wait.
class EchoServer {
 public:
  EchoServer(int port, size_t long_polls) : long_polls_(long_polls) {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:" + std::to_string(port), grpc::InsecureServerCredentials());
    builder.RegisterAsyncGenericService(&service_);
    queue_ = builder.AddCompletionQueue();
    server_ = builder.BuildAndStart();
    for (int i = 0; i < 512; ++i) {
      Accept();
    }
    thread_ = std::thread([this] { Run(); });
  }

  ~EchoServer() {
    server_->Shutdown(SteadyNow());
    queue_->Shutdown();
    thread_.join();
  }

 private:
  struct Call {
    grpc::GenericServerContext context;
    grpc::GenericServerAsyncReaderWriter stream{&context};
    grpc::ByteBuffer message;
    enum { kAccepting, kReading, kFinishing } state = kAccepting;
  };

  static std::chrono::system_clock::time_point SteadyNow() { return std::chrono::system_clock::now(); }

  void Accept() {
    auto* call = new Call;
    service_.RequestCall(&call->context, &call->stream, queue_.get(), queue_.get(), call);
  }

  void Finish(Call* call) {
    call->state = Call::kFinishing;
    call->stream.WriteAndFinish(call->message, grpc::WriteOptions(), grpc::Status::OK, call);
  }

  void Run() {
    void* tag = nullptr;
    bool ok = false;
    while (queue_->Next(&tag, &ok)) {
      auto* call = static_cast<Call*>(tag);
      if (!ok || call->state == Call::kFinishing) {
        delete call;
      } else if (call->state == Call::kAccepting) {
        Accept();
        call->state = Call::kReading;
        call->stream.Read(&call->message, call);
      } else if (call->context.method() == "/b/Poll") {
        waiting_.push_back(call);
        if (waiting_.size() == long_polls_) {
          std::for_each(waiting_.begin(), waiting_.end(), [this](Call* waiting) { Finish(waiting); });
          waiting_.clear();
        }
      } else {
        Finish(call);
      }
    }
  }

  size_t long_polls_;
  grpc::AsyncGenericService service_;
  std::unique_ptr<grpc::ServerCompletionQueue> queue_;
  std::unique_ptr<grpc::Server> server_;
  std::vector<Call*> waiting_;
  std::thread thread_;
};

class Client {
 public:
  explicit Client(int port) {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    channel_ =
        grpc::CreateCustomChannel("127.0.0.1:" + std::to_string(port), grpc::InsecureChannelCredentials(), arguments);
    stub_ = std::make_unique<grpc::GenericStub>(channel_);
    channel_->WaitForConnected(std::chrono::system_clock::now() + std::chrono::seconds(10));
  }

  // Makes calls at a steady rate, however long they take; returns milliseconds from when each was due.
  std::vector<double> Paced(double calls_per_s, double seconds) {
    const auto count = static_cast<size_t>(calls_per_s * seconds);
    std::vector<double> took_ms;
    const auto begin = SteadyClock::now();
    size_t sent = 0;
    while (took_ms.size() < count) {
      const auto due =
          begin + std::chrono::nanoseconds(static_cast<int64_t>(1e9 * static_cast<double>(sent) / calls_per_s));
      if (sent < count && SteadyClock::now() >= due) {
        Send("/b/Echo", due);
        ++sent;
        continue;
      }
      const auto left = due - SteadyClock::now();
      TakeOne(std::chrono::system_clock::now() + (sent < count ? left : std::chrono::seconds(10)), &took_ms);
    }
    return took_ms;
  }

  // Makes so many calls that wait together; returns how many were answered.
  size_t LongPolls(size_t count) {
    std::vector<double> took_ms;
    for (size_t i = 0; i < count; ++i) {
      Send("/b/Poll", SteadyClock::now());
    }
    const auto deadline = std::chrono::system_clock::now() + std::chrono::seconds(30);
    while (took_ms.size() < count && TakeOne(deadline, &took_ms)) {
    }
    return took_ms.size() - failures_;
  }

  size_t failures() const { return failures_; }

 private:
  struct Call {
    grpc::ClientContext context;
    grpc::ByteBuffer answer;
    grpc::Status status;
    SteadyClock::time_point due;
    std::unique_ptr<grpc::GenericClientAsyncResponseReader> reader;
  };

  void Send(const std::string& method, SteadyClock::time_point due) {
    auto* call = new Call;
    call->due = due;
    call->reader = stub_->PrepareUnaryCall(&call->context, method, Bytes(300), &queue_);
    call->reader->StartCall();
    call->reader->Finish(&call->answer, &call->status, call);
  }

  bool TakeOne(std::chrono::system_clock::time_point deadline, std::vector<double>* took_ms) {
    void* tag = nullptr;
    bool ok = false;
    if (queue_.AsyncNext(&tag, &ok, deadline) != grpc::CompletionQueue::GOT_EVENT) {
      return false;
    }
    const std::unique_ptr<Call> call(static_cast<Call*>(tag));
    took_ms->push_back(std::chrono::duration<double, std::milli>(SteadyClock::now() - call->due).count());
    failures_ += call->status.ok() ? 0 : 1;
    return true;
  }

  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<grpc::GenericStub> stub_;
  grpc::CompletionQueue queue_;
  size_t failures_ = 0;
};

double Percentile(std::vector<double>* values, double share) {
  std::sort(values->begin(), values->end());
  return (*values)[std::min(values->size() - 1, static_cast<size_t>(share * static_cast<double>(values->size())))];
}

std::vector<int> Ports(const std::string& text) {
  std::vector<int> ports;
  for (size_t at = 0; at < text.size();
       at = text.find(',', at) == std::string::npos ? text.size() : text.find(',', at) + 1) {
    ports.push_back(std::atoi(text.c_str() + at));
  }
  return ports;
}

int Main(char** argv) {
  const int server_port = std::atoi(argv[1]);
  const double calls_per_s = std::atof(argv[3]);
  const double seconds = std::atof(argv[4]);
  const auto long_polls = static_cast<size_t>(std::atoll(argv[5]));
  const EchoServer server(server_port, long_polls);
  std::puts("ready");
  std::fflush(stdout);
  std::string line;
  std::getline(std::cin, line);

  std::vector<int> ports = {server_port};
  for (const int port : Ports(argv[2])) {
    ports.push_back(port);
  }
  std::vector<std::unique_ptr<Client>> clients;
  std::vector<std::vector<double>> took_ms(ports.size());
  // Of each turn by itself: when the machine stands still for a moment, that is one turn of many.
  std::vector<std::vector<double>> turns_ms(ports.size());
  for (const int port : ports) {
    clients.push_back(std::make_unique<Client>(port));
    clients.back()->Paced(calls_per_s, 0.3);
  }
  // In turns of half a second, so that what else happens on the machine happens to all.
  for (double done = 0; done < seconds; done += 0.5) {
    for (size_t i = 0; i < ports.size(); ++i) {
      std::vector<double> some = clients[i]->Paced(calls_per_s, 0.5);
      took_ms[i].insert(took_ms[i].end(), some.begin(), some.end());
      turns_ms[i].push_back(Percentile(&some, 0.99));
    }
  }
  std::printf("{\"calls_per_s\": %g, \"ways\": [", calls_per_s);
  for (size_t i = 0; i < ports.size(); ++i) {
    std::printf(
        "%s{\"port\": %d, \"p50_ms\": %.4f, \"p99_ms\": %.4f, \"pooled_p99_ms\": %.4f, \"failures\": %zu, "
        "\"long_polls\": %zu}",
        i == 0 ? "" : ", ", ports[i], Percentile(&took_ms[i], 0.5), Percentile(&turns_ms[i], 0.5),
        Percentile(&took_ms[i], 0.99), clients[i]->failures(), long_polls == 0 ? 0 : clients[i]->LongPolls(long_polls));
  }
  std::printf("]}\n");
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 6) {
    std::fprintf(stderr, "usage: proxy_bench SERVER_PORT RELAY_PORT[,...] CALLS_PER_S SECONDS LONG_POLLS\n");
    return 2;
  }
  return Main(argv);
}
