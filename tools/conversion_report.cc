// The account of a conversion, as JSON.
#include <nlohmann/json.hpp>

#include "base/json_text.h"
#include "tools/conversion.h"

namespace plait {
namespace {

using Json = nlohmann::ordered_json;

std::vector<int64_t> Sizes(const Shape& shape) {
  return {shape.sizes().begin(), shape.sizes().end()};
}

Json Describe(const std::string& name, const std::string& file, SafetensorsDType dtype,
              const std::vector<int64_t>& shape, const std::string& digest) {
  int64_t bits = BitsOf(dtype);
  for (const int64_t size : shape) bits *= size;
  return {{"name", name},   {"file", file},      {"dtype", Name(dtype)},
          {"shape", shape}, {"bytes", bits / 8}, {"xxh3_128", digest}};
}

// One tensor a line.
void AppendLines(const char* name, const std::vector<Json>& values, std::string& text) {
  text += std::string(",\n\"") + name + "\":[";
  const char* separator = "\n";
  for (const Json& value : values) {
    text += separator + JsonText(value);
    separator = ",\n";
  }
  text += "]";
}

}  // namespace

std::string ConversionReport(const ConversionOptions& options, const ConversionResult& result,
                             const ConversionWork& work, const TransferDigests& digests) {
  const auto& [sources, file_of_source, plan, file_of_target] = work;
  std::vector<Json> of_source;
  for (size_t i = 0; i < sources.size(); ++i) {
    of_source.push_back(Describe(sources[i].name, file_of_source[i], sources[i].dtype,
                                 sources[i].shape, digests.sources[i]));
    of_source.back()["use"] = "converted";
    of_source.back()["goes_to"] = Json::array();
  }
  for (const TensorPlan::Copy& copy : plan.copies) {
    of_source[copy.source]["use"] = "equal to " + sources[copy.original].name;
  }
  for (const size_t source : plan.ignored) of_source[source]["use"] = "ignored: not a weight";
  std::vector<Json> of_target;
  for (size_t i = 0; i < plan.targets.size(); ++i) {
    const PlannedTensor& target = plan.targets[i];
    of_target.push_back(Describe(target.name, file_of_target[i], SafetensorsDTypeFor(target.dtype),
                                 Sizes(target.shape), digests.targets[i]));
    Json& comes_from = of_target.back()["comes_from"] = Json::array();
    int64_t begin = 0;
    for (const TensorSegment& segment : target.segments) {
      comes_from.push_back({{"source", sources[segment.source].name},
                            {"source_begin", segment.source_begin},
                            {"target_begin", begin},
                            {"elements", segment.elements}});
      of_source[segment.source]["goes_to"].push_back({{"target", target.name},
                                                      {"source_begin", segment.source_begin},
                                                      {"target_begin", begin},
                                                      {"elements", segment.elements}});
      begin += segment.elements;
    }
  }
  const Json report = {{"schema", "plait.conversion"},  {"version", 1},
                       {"source", options.source},      {"target", options.target},
                       {"direction", result.direction}, {"model_type", result.model_type},
                       {"dtype", result.dtype}};
  std::string text = JsonText(report);
  text.pop_back();
  AppendLines("sources", of_source, text);
  AppendLines("targets", of_target, text);
  return text + "}\n";
}

}  // namespace plait
