// Calls a package through torch's C++ loader, as a C++ service would, for `verify --runtime cpp`.
//
//   runner PACKAGE DEVICE REQUEST REPLY [WORD...]
//
// REQUEST and REPLY are files of tensors: a text head, then the bytes of each tensor's storage, one after another. The
// head is "aoti_build-tensors 1 COUNT" and for each tensor "DTYPE RANK SIZES... STRIDES... OFFSET BYTES", all separated
// by white space; one newline ends it. DTYPE is torch's name, or "none" with no numbers where there is no tensor. Strides
// and offset count elements.
//
// REQUEST holds the inputs of one call after another, all on one load; the word "calls=N" says how many calls that are.
// REPLY holds for each call its outputs, its inputs as they are after it, and the buffers that words "buffer=NAME" name,
// "none" for one that the package does not have. Words "tf32=0" and "reduced_precision=1" and so on set torch's switches
// for floating point, which a package reads when it runs. Words "library=PATH" name shared libraries to load first, which
// register operators, and words "operator=NAMESPACE::NAME" operators that there must be after that.
//
// Exit status: 0 with a reply; 2: the package could not be loaded; 3: it refused the inputs; 5: an operator is not there;
// 4: anything else. What went wrong is on stderr.
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

enum Status { kDone = 0, kNotLoaded = 2, kRefused = 3, kFailed = 4, kLacks = 5 };

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
    throw std::runtime_error(path + " is no file of tensors");
  }
  std::vector<Entry> entries;
  for (size_t i = 0; i < count && file >> name; ++i) {
    const auto& known = c10::getStringToDtypeMap();
    const auto found = known.find(name);
    size_t rank = 0;
    if (found == known.end() || !(file >> rank) || rank > 64) {
      throw std::runtime_error(path + ": cannot read a tensor of dtype " + name);
    }
    Entry entry{found->second, std::vector<int64_t>(rank), std::vector<int64_t>(rank)};
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
    tensors.push_back(
        at::empty({0}, entry.dtype).set_(bytes.storage(), entry.offset, entry.sizes, entry.strides));
  }
  if (!file || tensors.size() != count) throw std::runtime_error(path + " is cut short");
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
    if (tensor.defined()) file.write(static_cast<const char*>(tensor.const_data_ptr()), tensor.nbytes());
  }
  file.flush();
  if (!file) throw std::runtime_error("cannot write " + path);
}

struct Asked {
  size_t calls = 1;
  std::vector<std::string> buffers, libraries, operators;
};

void take_word(const std::string& word, Asked& asked) {
  auto& context = at::globalContext();
  const auto name = word.substr(0, word.find('='));
  const auto value = word.substr(std::min(word.size(), name.size() + 1));
  if (name == "calls") {
    asked.calls = std::stoul(value);
  } else if (name == "buffer") {
    asked.buffers.push_back(value);
  } else if (name == "library") {
    asked.libraries.push_back(value);
  } else if (name == "operator") {
    asked.operators.push_back(value);
  } else if (name == "tf32") {
    context.setAllowTF32CuDNN(value == "1");
    context.setAllowTF32CuBLAS(value == "1");
  } else if (name == "reduced_precision") {
    context.setAllowFP16ReductionCuBLAS(value == "1");
    context.setAllowBF16ReductionCuBLAS(value == "1");
  } else {
    throw std::runtime_error("there is no word " + name);
  }
}

// A copy of a tensor on the CPU, so that a later call cannot write into it.
at::Tensor kept(const at::Tensor& tensor) {
  return tensor.defined() ? tensor.cpu().contiguous().clone() : tensor;
}

void append_call(
    torch::inductor::AOTIModelPackageLoader& model,
    const std::vector<at::Tensor>& inputs,
    const Asked& asked,
    std::vector<at::Tensor>& reply) {
  for (const auto& output : model.run(inputs)) reply.push_back(kept(output));
  for (const auto& input : inputs) reply.push_back(kept(input));
  if (asked.buffers.empty()) return;
  const auto constants = model.get_runner()->extract_constants_map(/*use_inactive=*/false);
  for (const auto& name : asked.buffers) {
    const auto found = constants.find(name);
    reply.push_back(found == constants.end() ? at::Tensor() : kept(found->second));
  }
}

// What this process lacks of what the package needs; empty if it has all of it.
std::string lacking(const Asked& asked, const c10::Device& device) {
  std::string why;
  for (const auto& library : asked.libraries) {
    if (dlopen(library.c_str(), RTLD_NOW | RTLD_GLOBAL) == nullptr) why = library + " cannot be loaded: " + dlerror();
  }
  for (const auto& name : asked.operators) {
    const auto found = c10::Dispatcher::singleton().findSchema({name, ""});
    if (!found.has_value()) {
      return "no C++ library registers the operator " + name + ": " + (why.empty() ? "Python code does" : why);
    }
    const auto key = device.is_cuda() ? c10::DispatchKey::CUDA : c10::DispatchKey::CPU;
    if (!found->hasComputedKernelForDispatchKey(key)) {
      return "the operator " + name + " has no C++ kernel for " + device.str();
    }
  }
  return "";
}

int failed(Status status, const std::exception& error) {
  std::cerr << error.what() << std::endl;
  return status;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 5) {
    std::cerr << "usage: " << argv[0] << " PACKAGE DEVICE REQUEST REPLY [WORD...]" << std::endl;
    return kFailed;
  }
  try {
    c10::InferenceMode guard;
    const c10::Device device{std::string(argv[2])};
    Asked asked;
    for (int i = 5; i < argc; ++i) take_word(argv[i], asked);
    if (const auto why = lacking(asked, device); !why.empty()) {
      std::cerr << why << std::endl;
      return kLacks;
    }
    std::vector<at::Tensor> inputs, reply;
    for (const auto& tensor : read_tensors(argv[3])) inputs.push_back(tensor.to(device));
    if (asked.calls == 0 || inputs.size() % asked.calls != 0) {
      throw std::runtime_error("inputs do not divide into the calls");
    }
    std::optional<torch::inductor::AOTIModelPackageLoader> model;
    try {
      model.emplace(argv[1]);
    } catch (const std::exception& error) {
      return failed(kNotLoaded, error);
    }
    try {
      const auto each = inputs.size() / asked.calls;
      for (size_t call = 0; call < asked.calls; ++call) {
        const auto first = inputs.begin() + call * each;
        append_call(*model, std::vector<at::Tensor>(first, first + each), asked, reply);
      }
    } catch (const std::exception& error) {
      return failed(kRefused, error);
    }
    write_tensors(argv[4], std::move(reply));
    return kDone;
  } catch (const std::exception& error) {
    return failed(kFailed, error);
  }
}
