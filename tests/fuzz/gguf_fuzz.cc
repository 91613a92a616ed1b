// Any bytes as a GGUF file: refused in one line, or every tensor lies inside the file and can be
// read whole.
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "engine/architectures/gguf_model.h"
#include "engine/weights/gguf.h"
#include "kernels/check.h"

namespace {

// One file in memory, written anew for each input.
class InputFile {
 public:
  InputFile() : name_("sluice-gguf-fuzz-" + std::to_string(::getpid())) {}
  ~InputFile() { ::unlink(Path().c_str()); }
  sluice::ModelFile Write(const uint8_t* data, size_t size) {
    std::FILE* file = std::fopen(Path().c_str(), "wb");
    SLUICE_CHECK(file != nullptr) << Path();
    SLUICE_CHECK(std::fwrite(data, 1, size, file) == size);
    SLUICE_CHECK(std::fclose(file) == 0);
    auto opened = sluice::ModelFile::Open("/dev/shm", name_);
    SLUICE_CHECK(opened.ok()) << opened.status();
    return *std::move(opened);
  }

 private:
  std::string Path() const { return "/dev/shm/" + name_; }
  std::string name_;
};

void ReadAll(sluice::WeightStore& store, const std::vector<sluice::GgufPart>& parts) {
  for (const sluice::GgufPart& part : parts) {
    const auto range = store.Find(part.name);
    SLUICE_CHECK(range.ok()) << range.status();
    std::vector<std::byte> bytes(static_cast<size_t>(range->bytes));
    const absl::Status status = store.Read(part.name, 0, bytes);
    SLUICE_CHECK(status.ok()) << status;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static InputFile* input = new InputFile();
  sluice::ModelFile file = input->Write(data, size);
  auto contents = sluice::ReadGguf(file);
  if (!contents.ok()) {
    SLUICE_CHECK(contents.status().message().find('\n') == absl::string_view::npos);
    return 0;
  }
  std::vector<sluice::GgufPart> parts;
  for (size_t i = 0; i < contents->tensors.size(); ++i) {
    const sluice::GgufTensor& tensor = contents->tensors[i];
    SLUICE_CHECK(tensor.offset + tensor.bytes <= file.size()) << tensor.name;
    parts.push_back({"t" + std::to_string(i), i, tensor.shape});
  }
  ReadAll(*sluice::MakeGgufStore(std::move(file), contents->tensors, parts), parts);
  const auto family = sluice::FindGgufFamily(contents->metadata);
  if (!family.ok()) return 0;
  (void)sluice::GgufConfig(*contents, *family);
  (void)sluice::NameGgufTensors(contents->tensors, *family);
  return 0;
}
