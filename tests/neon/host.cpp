#include "host.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/c/shim.h>
#include <torch/headeronly/core/Layout.h>
#include <torch/headeronly/core/MemoryFormat.h>

#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <stdexcept>

namespace host {
namespace {

struct HostTensor {
  std::shared_ptr<void> memory;
  char* data;
  ScalarType type;
  Sizes sizes, strides;

  int64_t numel() const {
    int64_t count = 1;
    for (const int64_t size : sizes) count *= size;
    return count;
  }
};

size_t bytes_of(ScalarType type) {
  switch (type) {
    case ScalarType::Double: return 8;
    case ScalarType::Float:
    case ScalarType::Int: return 4;
    case ScalarType::BFloat16:
    case ScalarType::Half: return 2;
    case ScalarType::Byte: return 1;
    default: throw std::runtime_error("the harness has no tensors of this dtype");
  }
}

Sizes contiguous(const Sizes& sizes) {
  Sizes strides(sizes.size());
  int64_t stride = 1;
  for (size_t i = sizes.size(); i-- > 0; stride *= sizes[i]) strides[i] = stride;
  return strides;
}

HostTensor& self(AtenTensorHandle handle) { return *reinterpret_cast<HostTensor*>(handle); }
AtenTensorHandle handle_of(HostTensor tensor) {
  return reinterpret_cast<AtenTensorHandle>(new HostTensor(std::move(tensor)));
}

HostTensor allocate(const Sizes& sizes, ScalarType type) {
  HostTensor tensor{nullptr, nullptr, type, sizes, contiguous(sizes)};
  // Exactly as much as it holds, so that a tool that watches memory sees what lies beyond.
  tensor.memory = {std::malloc(tensor.numel() * bytes_of(type)), std::free};
  tensor.data = static_cast<char*>(tensor.memory.get());
  return tensor;
}

std::map<std::string, Operator>& operators() {
  static std::map<std::string, Operator> all;
  return all;
}

using List = std::vector<StableIValue>;
List& list(StableListHandle handle) { return *reinterpret_cast<List*>(handle); }
std::string& text(StringHandle handle) { return *reinterpret_cast<std::string*>(handle); }

}  // namespace

Tensor make(const Sizes& sizes, ScalarType type) {
  return Tensor(handle_of(allocate(sizes, type)));
}

Tensor view(const Tensor& tensor, const Sizes& sizes, const Sizes& strides, int64_t offset) {
  HostTensor result = self(tensor.get());
  result.data += offset * static_cast<int64_t>(bytes_of(result.type));
  result.sizes = sizes;
  result.strides = strides;
  return Tensor(handle_of(std::move(result)));
}

Operator find(const std::string& name) { return operators().at(name); }

}  // namespace host

using namespace host;

#define CONSTANT(name, value) \
  int32_t name() { return static_cast<int32_t>(value); }

extern "C" {

uint64_t aoti_torch_abi_version() { return TORCH_ABI_VERSION; }

CONSTANT(aoti_torch_device_type_cpu, 0)
CONSTANT(aoti_torch_device_type_cuda, 1)
CONSTANT(aoti_torch_device_type_xpu, 12)
CONSTANT(aoti_torch_device_type_mps, 13)
CONSTANT(aoti_torch_device_type_meta, 14)
CONSTANT(aoti_torch_device_type_privateuse1, 20)
CONSTANT(aoti_torch_dtype_uint8, ScalarType::Byte)
CONSTANT(aoti_torch_dtype_int8, ScalarType::Char)
CONSTANT(aoti_torch_dtype_int16, ScalarType::Short)
CONSTANT(aoti_torch_dtype_int32, ScalarType::Int)
CONSTANT(aoti_torch_dtype_int64, ScalarType::Long)
CONSTANT(aoti_torch_dtype_float16, ScalarType::Half)
CONSTANT(aoti_torch_dtype_float32, ScalarType::Float)
CONSTANT(aoti_torch_dtype_float64, ScalarType::Double)
CONSTANT(aoti_torch_dtype_complex32, ScalarType::ComplexHalf)
CONSTANT(aoti_torch_dtype_complex64, ScalarType::ComplexFloat)
CONSTANT(aoti_torch_dtype_complex128, ScalarType::ComplexDouble)
CONSTANT(aoti_torch_dtype_bool, ScalarType::Bool)
CONSTANT(aoti_torch_dtype_bfloat16, ScalarType::BFloat16)
CONSTANT(aoti_torch_dtype_float8_e5m2, ScalarType::Float8_e5m2)
CONSTANT(aoti_torch_dtype_float8_e4m3fn, ScalarType::Float8_e4m3fn)
CONSTANT(aoti_torch_dtype_float8_e5m2fnuz, ScalarType::Float8_e5m2fnuz)
CONSTANT(aoti_torch_dtype_float8_e4m3fnuz, ScalarType::Float8_e4m3fnuz)
CONSTANT(torch_dtype_float8_e8m0fnu, ScalarType::Float8_e8m0fnu)
CONSTANT(torch_dtype_float4_e2m1fn_x2, ScalarType::Float4_e2m1fn_x2)
CONSTANT(aoti_torch_dtype_uint16, ScalarType::UInt16)
CONSTANT(aoti_torch_dtype_uint32, ScalarType::UInt32)
CONSTANT(aoti_torch_dtype_uint64, ScalarType::UInt64)
CONSTANT(aoti_torch_layout_strided, 0)
CONSTANT(aoti_torch_layout_sparse_coo, 1)
CONSTANT(aoti_torch_layout_sparse_csr, 2)
CONSTANT(aoti_torch_layout__mkldnn, 3)
CONSTANT(aoti_torch_layout_sparse_csc, 4)
CONSTANT(aoti_torch_layout_sparse_bsr, 5)
CONSTANT(aoti_torch_layout_sparse_bsc, 6)
CONSTANT(aoti_torch_layout_jagged, 7)
CONSTANT(aoti_torch_memory_format_contiguous_format, 0)
CONSTANT(aoti_torch_memory_format_preserve_format, 1)
CONSTANT(aoti_torch_memory_format_channels_last, 2)
CONSTANT(aoti_torch_memory_format_channels_last_3d, 3)

size_t aoti_torch_dtype_element_size(int32_t type) {
  return bytes_of(static_cast<ScalarType>(type));
}

AOTITorchError aoti_torch_new_tensor_handle(AtenTensorHandle from, AtenTensorHandle* result) {
  *result = handle_of(self(from));
  return 0;
}
AOTITorchError aoti_torch_delete_tensor_object(AtenTensorHandle tensor) {
  delete &self(tensor);
  return 0;
}
AOTITorchError aoti_torch_get_dim(AtenTensorHandle tensor, int64_t* result) {
  *result = static_cast<int64_t>(self(tensor).sizes.size());
  return 0;
}
AOTITorchError aoti_torch_get_numel(AtenTensorHandle tensor, int64_t* result) {
  *result = self(tensor).numel();
  return 0;
}
AOTITorchError aoti_torch_get_sizes(AtenTensorHandle tensor, int64_t** result) {
  *result = self(tensor).sizes.data();
  return 0;
}
AOTITorchError aoti_torch_get_strides(AtenTensorHandle tensor, int64_t** result) {
  *result = self(tensor).strides.data();
  return 0;
}
AOTITorchError aoti_torch_get_size(AtenTensorHandle tensor, int64_t axis, int64_t* result) {
  *result = self(tensor).sizes.at(axis);
  return 0;
}
AOTITorchError aoti_torch_get_stride(AtenTensorHandle tensor, int64_t axis, int64_t* result) {
  *result = self(tensor).strides.at(axis);
  return 0;
}
AOTITorchError aoti_torch_get_dtype(AtenTensorHandle tensor, int32_t* result) {
  *result = static_cast<int32_t>(self(tensor).type);
  return 0;
}
AOTITorchError aoti_torch_get_device_type(AtenTensorHandle, int32_t* result) {
  *result = aoti_torch_device_type_cpu();
  return 0;
}
AOTITorchError aoti_torch_get_device_index(AtenTensorHandle, int32_t* result) {
  *result = -1;
  return 0;
}
AOTITorchError aoti_torch_is_contiguous(AtenTensorHandle tensor, bool* result) {
  *result = self(tensor).strides == contiguous(self(tensor).sizes);
  return 0;
}
AOTITorchError torch_get_mutable_data_ptr(AtenTensorHandle tensor, void** result) {
  *result = self(tensor).data;
  return 0;
}
AOTITorchError torch_get_const_data_ptr(AtenTensorHandle tensor, const void** result) {
  *result = self(tensor).data;
  return 0;
}

AOTITorchError aoti_torch_library_init_impl(const char*, const char*, const char*, uint32_t,
                                            TorchLibraryHandle* result) {
  *result = nullptr;
  return 0;
}
AOTITorchError aoti_torch_delete_library_object(TorchLibraryHandle) { return 0; }
AOTITorchError torch_library_impl(TorchLibraryHandle, const char* name, Operator implementation,
                                  uint64_t) {
  operators()[name] = implementation;
  return 0;
}

// Of torch's own operators those that ours call.
AOTITorchError torch_call_dispatcher(const char* name, const char*, StableIValue* stack, uint64_t) {
  using torch::stable::detail::from;
  using torch::stable::detail::to;
  if (name == std::string("aten::empty")) {
    const auto sizes = to<Sizes>(stack[0]);
    const auto type = to<std::optional<ScalarType>>(stack[1]);
    to<std::optional<torch::headeronly::Layout>>(stack[2]);
    to<std::optional<torch::stable::Device>>(stack[3]);
    to<std::optional<bool>>(stack[4]);
    if (to<std::optional<torch::headeronly::MemoryFormat>>(stack[5])) return 1;
    stack[0] = from(make(sizes, type.value()));
    return 0;
  }
  if (name == std::string("aten::zero_")) {
    Tensor tensor = to<Tensor>(stack[0]);
    const HostTensor& zeros = self(tensor.get());
    std::memset(zeros.data, 0, zeros.numel() * bytes_of(zeros.type));
    stack[0] = from(tensor);
    return 0;
  }
  return 1;
}

AOTITorchError torch_new_list_reserve_size(size_t size, StableListHandle* result) {
  auto* const made = new List;
  made->reserve(size);
  *result = reinterpret_cast<StableListHandle>(made);
  return 0;
}
AOTITorchError torch_list_size(StableListHandle handle, size_t* result) {
  *result = list(handle).size();
  return 0;
}
AOTITorchError torch_list_get_item(StableListHandle handle, size_t index, StableIValue* result) {
  *result = list(handle).at(index);
  return 0;
}
AOTITorchError torch_list_push_back(StableListHandle handle, StableIValue value) {
  list(handle).push_back(value);
  return 0;
}
AOTITorchError torch_delete_list(StableListHandle handle) {
  delete &list(handle);
  return 0;
}
AOTITorchError torch_new_string_handle(const char* data, size_t length, StringHandle* result) {
  *result = reinterpret_cast<StringHandle>(new std::string(data, length));
  return 0;
}
AOTITorchError torch_delete_string(StringHandle handle) {
  delete &text(handle);
  return 0;
}
AOTITorchError torch_string_length(StringHandle handle, size_t* result) {
  *result = text(handle).size();
  return 0;
}
AOTITorchError torch_string_c_str(StringHandle handle, const char** result) {
  *result = text(handle).c_str();
  return 0;
}

// One thread, which takes the shares of three.
AOTITorchError torch_get_num_threads(uint32_t* result) {
  *result = 3;
  return 0;
}
AOTITorchError torch_parallel_for(int64_t begin, int64_t end, int64_t grain, ParallelFunc work,
                                  void* context) {
  const int64_t share = std::max(grain, (end - begin + 2) / 3);
  for (; begin < end; begin += share) work(begin, std::min(end, begin + share), context);
  return 0;
}

}  // extern "C"
