// A service in C++ that loads a package once and answers requests from stdin until it ends:
//
//   service MODEL.pt2 [DEVICE]
//
// A request is a line with "DTYPE SHAPE FILE" for each input, in the order of the model's inputs; a file holds the raw
// values, as numpy's tofile() writes them:  float32 2x3x224x224 image.bin
//
// A SHAPE may end with the memory format that the manifest gives the input. The file has the values in the order of the
// axes all the same:  float32 2x3x224x224:channels_last image.bin
//
// Set AOTI_RUNTIME_CHECK_INPUTS=1 in its environment: without it a package answers inputs that it was not compiled for
// with wrong numbers, or crashes.
#include <ATen/Functions.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/ScalarType.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

#include <chrono>
#include <fstream>
#include <iomanip>
#include <iostream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

// "2x3x224x224", or "-" for a scalar
std::vector<int64_t> parse_shape(const std::string& text) {
  std::vector<int64_t> shape;
  std::stringstream words(text == "-" ? "" : text);
  for (std::string word; std::getline(words, word, 'x');) shape.push_back(std::stoll(word));
  return shape;
}

c10::MemoryFormat parse_format(const std::string& text) {
  if (text.empty()) return c10::MemoryFormat::Contiguous;
  if (text == "channels_last") return c10::MemoryFormat::ChannelsLast;
  if (text == "channels_last_3d") return c10::MemoryFormat::ChannelsLast3d;
  throw std::runtime_error("there is no memory format " + text);
}

at::Tensor read_tensor(const std::string& dtype, const std::string& layout, const std::string& path) {
  const auto colon = layout.find(':');
  const auto format = parse_format(colon == std::string::npos ? "" : layout.substr(colon + 1));
  auto tensor = at::empty(parse_shape(layout.substr(0, colon)), c10::getStringToDtypeMap().at(dtype));
  std::ifstream file(path, std::ios::binary);
  file.read(static_cast<char*>(tensor.data_ptr()), tensor.nbytes());
  if (!file) throw std::runtime_error(path + " has fewer than " + std::to_string(tensor.nbytes()) + " bytes");
  if (format == c10::MemoryFormat::Contiguous) return tensor;
  // Not contiguous(format): it keeps the strides of a tensor whose axes of size 1 make it both.
  return at::empty_like(tensor, tensor.options(), format).copy_(tensor);
}

void print_tensor(size_t number, const at::Tensor& output) {
  const auto tensor = output.cpu();
  std::cout << "output " << number << ' ' << c10::getDtypeNames(tensor.scalar_type()).first << ' ';
  for (int64_t i = 0; i < tensor.dim(); ++i) std::cout << (i ? "x" : "") << tensor.size(i);
  std::cout << ':' << std::setprecision(9);
  const auto values = tensor.reshape({-1}).to(at::kDouble);
  for (int64_t i = 0; i < std::min<int64_t>(values.numel(), 16); ++i) std::cout << ' ' << values[i].item<double>();
  std::cout << (values.numel() > 16 ? " ...\n" : "\n");
}

int main(int argc, char** argv) {
  if (argc < 2) {
    std::cerr << "usage: " << argv[0] << " MODEL.pt2 [DEVICE]\n";
    return 2;
  }
  try {
    const c10::Device device{std::string(argc > 2 ? argv[2] : "cpu")};
    // For calls from several threads at once, give num_runners: each has its own activations, and all share the weights.
    torch::inductor::AOTIModelPackageLoader model(argv[1]);
    c10::InferenceMode guard;
    for (std::string line; std::getline(std::cin, line);) {
      try {
        std::vector<at::Tensor> inputs;
        std::stringstream words(line);
        for (std::string dtype, shape, path; words >> dtype >> shape >> path;) {
          inputs.push_back(read_tensor(dtype, shape, path).to(device));
        }
        const auto begin = std::chrono::steady_clock::now();
        auto outputs = model.run(inputs);
        for (auto& output : outputs) output = output.cpu();  // and so waits for a GPU
        const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - begin;
        for (size_t i = 0; i < outputs.size(); ++i) print_tensor(i, outputs[i]);
        std::cout << "took " << took.count() << " ms" << std::endl;
      } catch (const std::exception& error) {
        const std::string said = error.what();  // the first line; the others are a stack trace
        std::cout << "refused: " << said.substr(0, said.find('\n')) << std::endl;
      }
    }
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
}
