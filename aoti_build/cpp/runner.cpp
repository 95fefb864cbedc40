// Calls a package once through torch's C++ loader, as a C++ service would, for `verify --runtime cpp`.
//
//   runner PACKAGE DEVICE REQUEST REPLY
//
// REQUEST and REPLY are files of tensors: a text head, then the bytes of each tensor's storage, one after another. The
// head is "aoti_build-tensors 1 COUNT" and for each tensor "DTYPE RANK SIZES... STRIDES... OFFSET BYTES", all separated
// by white space; one newline ends it. DTYPE is torch's name, or "none" with no numbers where there is no tensor. Strides
// and offset count elements. Floating point switches of torch, which a package reads when it runs, come as
// "NAME=0" or "NAME=1" behind the files.
//
// Exit status: 0 with a reply; 2: the package could not be loaded; 3: it refused the inputs; 4: anything else. What went
// wrong is on stderr.
#include <ATen/Context.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/ScalarType.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

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

enum Status { kDone = 0, kNotLoaded = 2, kRefused = 3, kFailed = 4 };

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

void set_switch(const std::string& word) {
  auto& context = at::globalContext();
  const bool on = word.size() > 2 && word.compare(word.size() - 2, 2, "=1") == 0;
  const auto name = word.substr(0, word.find('='));
  if (name == "tf32") {
    context.setAllowTF32CuDNN(on);
    context.setAllowTF32CuBLAS(on);
  } else if (name == "reduced_precision") {
    context.setAllowFP16ReductionCuBLAS(on);
    context.setAllowBF16ReductionCuBLAS(on);
  } else {
    throw std::runtime_error("there is no switch " + name);
  }
}

int failed(Status status, const std::exception& error) {
  std::cerr << error.what() << std::endl;
  return status;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 5) {
    std::cerr << "usage: " << argv[0] << " PACKAGE DEVICE REQUEST REPLY [SWITCH=0|1...]" << std::endl;
    return kFailed;
  }
  try {
    c10::InferenceMode guard;
    const c10::Device device{std::string(argv[2])};
    for (int i = 5; i < argc; ++i) set_switch(argv[i]);
    std::vector<at::Tensor> inputs, outputs;
    for (const auto& tensor : read_tensors(argv[3])) inputs.push_back(tensor.to(device));
    std::optional<torch::inductor::AOTIModelPackageLoader> model;
    try {
      model.emplace(argv[1]);
    } catch (const std::exception& error) {
      return failed(kNotLoaded, error);
    }
    try {
      outputs = model->run(inputs);
    } catch (const std::exception& error) {
      return failed(kRefused, error);
    }
    write_tensors(argv[4], std::move(outputs));  // copies from a GPU, and so waits for it
    return kDone;
  } catch (const std::exception& error) {
    return failed(kFailed, error);
  }
}
