// Calls a package through torch's C++ loader, as a C++ service does, for `verify --runtime cpp`.
//
//   runner PACKAGE DEVICE REQUEST REPLY [OPTION...]
//
// REQUEST contains the inputs of all calls, one call after another. All calls use the package that
// was loaded once. REPLY contains for each call:
//   - its outputs;
//   - its inputs, as they are after the call;
//   - the buffers that were requested, or "none" for one that the package does not have.
//
// Options:
//   calls=N                the number of calls; the default is 1
//   buffer=NAME            return this buffer after each call
//   library=PATH           load this shared library first; it may register operators
//   operator=NAME          fail unless the operator NAMESPACE::NAME is registered after that
//   tf32=0|1               set torch's switches for floating point. A package reads them when
//   reduced_precision=0|1  it runs
//
// REQUEST and REPLY have a head of text, and then the bytes of each tensor's storage. The head is
// "aoti_build-tensors 1 COUNT", and for each tensor "DTYPE RANK SIZES... STRIDES... OFFSET BYTES".
// White space separates the parts and one newline ends the head. DTYPE is torch's name. It is
// "none", with no numbers, if there is no tensor. Strides and offset count elements.
//
// Exit status:
//   0  the reply was written
//   2  the package cannot be loaded
//   3  the package refused the inputs
//   4  another error
//   5  an operator is missing
// The message is on stderr.
#include <ATen/Context.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/empty.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/ScalarType.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

#include <dlfcn.h>

#include <algorithm>
#include <cstdint>
#include <exception>
#include <fstream>
#include <iostream>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

constexpr const char* kMagic = "aoti_build-tensors";
constexpr int kVersion = 1;
constexpr size_t kMaxRank = 64;

enum Status { kDone = 0, kNotLoaded = 2, kRefused = 3, kFailed = 4, kOperatorMissing = 5 };

// A tensor as the head of a file describes it.
struct Entry {
  c10::ScalarType dtype;
  std::vector<int64_t> sizes, strides;
  int64_t offset = 0, bytes = 0;
};

std::vector<at::Tensor> read_tensors(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string magic, name;
  int version = 0;
  size_t count = 0;
  if (!(file >> magic >> version >> count) || magic != kMagic || version != kVersion) {
    throw std::runtime_error(path + " is not a file of tensors");
  }
  std::vector<Entry> entries;
  for (size_t i = 0; i < count && file >> name; ++i) {
    const auto& dtypes = c10::getStringToDtypeMap();
    const auto dtype = dtypes.find(name);
    size_t rank = 0;
    if (dtype == dtypes.end() || !(file >> rank) || rank > kMaxRank) {
      throw std::runtime_error(path + ": cannot read a tensor of dtype " + name);
    }
    Entry entry{dtype->second, std::vector<int64_t>(rank), std::vector<int64_t>(rank)};
    for (auto& size : entry.sizes) file >> size;
    for (auto& stride : entry.strides) file >> stride;
    file >> entry.offset >> entry.bytes;
    entries.push_back(std::move(entry));
  }
  file.get();  // the newline
  std::vector<at::Tensor> tensors;
  for (const auto& entry : entries) {
    if (!file || entry.bytes < 0) break;
    auto bytes = at::empty({entry.bytes}, at::kByte);
    file.read(static_cast<char*>(bytes.data_ptr()), entry.bytes);
    auto tensor = at::empty({0}, entry.dtype);
    tensors.push_back(tensor.set_(bytes.storage(), entry.offset, entry.sizes, entry.strides));
  }
  if (!file || tensors.size() != count) throw std::runtime_error(path + " is truncated");
  return tensors;
}

void write_tensors(const std::string& path, std::vector<at::Tensor> tensors) {
  std::ofstream file(path, std::ios::binary);
  file << kMagic << ' ' << kVersion << ' ' << tensors.size();
  for (auto& tensor : tensors) {
    if (!tensor.defined()) {
      file << " none";
      continue;
    }
    tensor = tensor.cpu().contiguous();
    file << ' ' << c10::getDtypeNames(tensor.scalar_type()).first << ' ' << tensor.dim();
    for (auto size : tensor.sizes()) file << ' ' << size;
    for (auto stride : tensor.strides()) file << ' ' << stride;
    file << " 0 " << tensor.nbytes();
  }
  file << '\n';
  for (const auto& tensor : tensors) {
    if (!tensor.defined()) continue;
    file.write(static_cast<const char*>(tensor.const_data_ptr()), tensor.nbytes());
  }
  file.flush();
  if (!file) throw std::runtime_error("cannot write " + path);
}

struct Options {
  size_t calls = 1;
  std::vector<std::string> buffers, libraries, operators;
};

// Reads an option NAME=VALUE. The switches for floating point take effect at once.
void read_option(const std::string& text, Options& options) {
  auto& context = at::globalContext();
  const auto name = text.substr(0, text.find('='));
  const auto value = text.substr(std::min(text.size(), name.size() + 1));
  if (name == "calls") {
    options.calls = std::stoul(value);
  } else if (name == "buffer") {
    options.buffers.push_back(value);
  } else if (name == "library") {
    options.libraries.push_back(value);
  } else if (name == "operator") {
    options.operators.push_back(value);
  } else if (name == "tf32") {
    context.setAllowTF32CuDNN(value == "1");
    context.setAllowTF32CuBLAS(value == "1");
  } else if (name == "reduced_precision") {
    context.setAllowFP16ReductionCuBLAS(value == "1");
    context.setAllowBF16ReductionCuBLAS(value == "1");
  } else {
    throw std::runtime_error("there is no option " + name);
  }
}

// A copy on the CPU, because a later call may write into the tensor itself.
at::Tensor copy(const at::Tensor& tensor) {
  return tensor.defined() ? tensor.cpu().contiguous().clone() : tensor;
}

// Calls the package and appends what the reply contains for the call.
void append_call(
    torch::inductor::AOTIModelPackageLoader& model,
    const std::vector<at::Tensor>& inputs,
    const Options& options,
    std::vector<at::Tensor>& reply) {
  for (const auto& output : model.run(inputs)) reply.push_back(copy(output));
  for (const auto& input : inputs) reply.push_back(copy(input));
  if (options.buffers.empty()) return;
  const auto constants = model.get_runner()->extract_constants_map(/*use_inactive=*/false);
  for (const auto& name : options.buffers) {
    const auto buffer = constants.find(name);
    reply.push_back(buffer == constants.end() ? at::Tensor() : copy(buffer->second));
  }
}

// Loads the libraries. Returns a sentence if an operator is still missing, and "" otherwise.
std::string missing_operator(const Options& options, const c10::Device& device) {
  // A library that cannot be loaded is no error in itself: the package may not need it.
  std::string load_error;
  for (const auto& library : options.libraries) {
    if (dlopen(library.c_str(), RTLD_NOW | RTLD_GLOBAL) == nullptr) {
      load_error = library + " cannot be loaded: " + dlerror();
    }
  }
  const auto key = device.is_cuda() ? c10::DispatchKey::CUDA : c10::DispatchKey::CPU;
  for (const auto& name : options.operators) {
    const auto schema = c10::Dispatcher::singleton().findSchema({name, ""});
    if (!schema.has_value()) {
      const auto cause = load_error.empty() ? "Python code does" : load_error;
      return "no C++ library registers the operator " + name + ": " + cause;
    }
    if (!schema->hasComputedKernelForDispatchKey(key)) {
      return "the operator " + name + " has no C++ kernel for " + device.str();
    }
  }
  return "";
}

int fail(Status status, const std::string& message) {
  std::cerr << message << std::endl;
  return status;
}

int run(int argc, char** argv) {
  const std::string package = argv[1], request = argv[3], reply_path = argv[4];
  const c10::Device device{std::string(argv[2])};
  Options options;
  for (int i = 5; i < argc; ++i) read_option(argv[i], options);
  if (const auto message = missing_operator(options, device); !message.empty()) {
    return fail(kOperatorMissing, message);
  }
  std::vector<at::Tensor> inputs, reply;
  for (const auto& tensor : read_tensors(request)) inputs.push_back(tensor.to(device));
  if (options.calls == 0 || inputs.size() % options.calls != 0) {
    throw std::runtime_error("the number of inputs is not a multiple of the number of calls");
  }
  std::optional<torch::inductor::AOTIModelPackageLoader> model;
  try {
    model.emplace(package);
  } catch (const std::exception& error) {
    return fail(kNotLoaded, error.what());
  }
  try {
    const auto inputs_per_call = inputs.size() / options.calls;
    for (size_t call = 0; call < options.calls; ++call) {
      const auto first = inputs.begin() + call * inputs_per_call;
      const std::vector<at::Tensor> call_inputs(first, first + inputs_per_call);
      append_call(*model, call_inputs, options, reply);
    }
  } catch (const std::exception& error) {
    return fail(kRefused, error.what());
  }
  write_tensors(reply_path, std::move(reply));
  return kDone;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 5) {
    return fail(
        kFailed,
        "usage: " + std::string(argv[0]) + " PACKAGE DEVICE REQUEST REPLY [OPTION...]");
  }
  try {
    c10::InferenceMode guard;
    return run(argc, argv);
  } catch (const std::exception& error) {
    return fail(kFailed, error.what());
  }
}
