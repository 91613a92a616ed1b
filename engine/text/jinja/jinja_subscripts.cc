// Attributes, subscripts, slices and iteration of template values (declared in jinja_operators.h).
#include <algorithm>
#include <optional>
#include <utility>

#include "engine/status_macros.h"
#include "engine/text/jinja/jinja_operators.h"
#include "engine/text/utf8.h"

namespace sluice {
namespace {

// Where each character of `text` begins, and the end.
absl::StatusOr<std::vector<size_t>> CharacterOffsets(const std::string& text, JinjaBudget& budget) {
  RETURN_IF_ERROR(budget.Characters(text.size()));
  const size_t count = CountCodePoints(text) + 1;
  RETURN_IF_ERROR(budget.Bytes(count * sizeof(size_t)));
  std::vector<size_t> offsets;
  offsets.reserve(count);
  for (size_t position = 0; position < text.size(); NextCodePoint(text, position)) {
    offsets.push_back(position);
  }
  offsets.push_back(text.size());
  return offsets;
}

absl::Status ReadBound(const JinjaValue& value, int64_t& bound, bool& is_open) {
  is_open = value.is_undefined() || value.is_none();
  if (is_open) return absl::OkStatus();
  const int64_t* integer = value.integer();
  if (integer == nullptr) return JinjaTypeError(value, "cannot bound a slice");
  bound = *integer;
  return absl::OkStatus();
}

// The indices of a slice. Source: CPython, Objects/sliceobject.c, PySlice_AdjustIndices.
absl::StatusOr<std::vector<size_t>> SliceIndices(size_t size,
                                                 const JinjaSliceBounds& bounds,
                                                 JinjaBudget& budget) {
  const auto length = static_cast<int64_t>(size);
  int64_t step = 1;
  int64_t start = 0;
  int64_t stop = 0;
  bool open_step = false;
  bool open_start = false;
  bool open_stop = false;
  RETURN_IF_ERROR(ReadBound(bounds.step, step, open_step));
  RETURN_IF_ERROR(ReadBound(bounds.start, start, open_start));
  RETURN_IF_ERROR(ReadBound(bounds.stop, stop, open_stop));
  if (step == 0) return JinjaError("slice step is zero");
  step = std::clamp<int64_t>(step, -length - 1, length + 1);
  const int64_t low = step < 0 ? -1 : 0;
  const int64_t high = step < 0 ? length - 1 : length;
  const auto adjust = [&](int64_t bound) {
    return std::clamp(bound < 0 ? bound + length : bound, low, high);
  };
  start = open_start ? (step < 0 ? high : low) : adjust(start);
  stop = open_stop ? (step < 0 ? low : high) : adjust(stop);
  const int64_t distance = step > 0 ? stop - start : start - stop;
  const int64_t stride = step > 0 ? step : -step;
  const size_t count = distance > 0 ? static_cast<size_t>((distance + stride - 1) / stride) : 0;
  RETURN_IF_ERROR(budget.Bytes(count * sizeof(size_t)));
  std::vector<size_t> indices;
  indices.reserve(count);
  for (int64_t i = start; step > 0 ? i < stop : i > stop; i += step) {
    indices.push_back(static_cast<size_t>(i));
  }
  return indices;
}

std::optional<size_t> ListIndex(int64_t index, size_t size) {
  const int64_t absolute = index < 0 ? index + static_cast<int64_t>(size) : index;
  if (absolute < 0 || absolute >= static_cast<int64_t>(size)) return std::nullopt;
  return static_cast<size_t>(absolute);
}

JinjaValue NoItem() { return JinjaValue::Undefined(); }

// The character `index` of `text`, counted from its end where negative.
JinjaResult CharacterAt(const TemplateText& text, int64_t index, JinjaBudget& budget) {
  const std::string& bytes = text.text();
  // A character has at least a byte, and walking to it costs what lies on the way.
  const auto skipped = static_cast<uint64_t>(index < 0 ? -1 - index : index);
  if (skipped >= bytes.size()) return NoItem();
  RETURN_IF_ERROR(budget.Characters(static_cast<size_t>(skipped)));
  size_t begin = 0;
  size_t end = 0;
  if (index < 0) {
    begin = end = bytes.size();
    for (uint64_t i = 0; i <= skipped; ++i) {
      if (begin == 0) return NoItem();
      end = begin;
      PreviousCodePoint(bytes, begin);
    }
  } else {
    for (uint64_t i = 0; i <= skipped; ++i) {
      if (end == bytes.size()) return NoItem();
      begin = end;
      NextCodePoint(bytes, end);
    }
  }
  return JinjaValue::Text(text.Substring(begin, end));
}

}  // namespace

JinjaResult JinjaAttribute(const JinjaValue& value, const std::string& name, JinjaBudget& budget) {
  if (value.is_undefined()) return JinjaError("attribute of an undefined value");
  if (const JinjaDict* dict = value.dict()) {
    RETURN_IF_ERROR(budget.Step(static_cast<int64_t>(dict->entries.size() / 16)));
    const JinjaValue* found = dict->Find(name);
    return found != nullptr ? *found : JinjaValue::Undefined();
  }
  if (JinjaNamespace* space = value.name_space()) {
    RETURN_IF_ERROR(budget.Step(static_cast<int64_t>(space->entries.size() / 16)));
    const JinjaValue* found = space->Find(name);
    return found != nullptr ? *found : JinjaValue::Undefined();
  }
  if (const JinjaLoop* loop = value.loop()) return loop->Attribute(name);
  return JinjaValue::Undefined();
}

JinjaResult JinjaItem(const JinjaValue& value, const JinjaValue& key, JinjaBudget& budget) {
  if (key.text() != nullptr) return JinjaAttribute(value, key.text()->text(), budget);
  if (value.is_undefined()) return JinjaError("item of an undefined value");
  const int64_t* index = key.integer();
  if (index == nullptr) return NoItem();
  if (const JinjaList* list = value.list()) {
    const std::optional<size_t> at = ListIndex(*index, list->items.size());
    return at.has_value() ? list->items[*at] : NoItem();
  }
  if (const TemplateText* text = value.text()) {
    return CharacterAt(*text, *index, budget);
  }
  return NoItem();
}

JinjaResult JinjaSlice(const JinjaValue& value,
                       const JinjaSliceBounds& bounds,
                       JinjaBudget& budget) {
  if (const JinjaList* list = value.list()) {
    ASSIGN_OR_RETURN(const std::vector<size_t> indices,
                     SliceIndices(list->items.size(), bounds, budget));
    JinjaItems items;
    for (const size_t index : indices) items.push_back(list->items[index]);
    return JinjaValue::List(std::move(items), budget);
  }
  if (const TemplateText* text = value.text()) {
    RETURN_IF_ERROR(budget.Bytes(text->stored_bytes()));
    ASSIGN_OR_RETURN(const std::vector<size_t> offsets, CharacterOffsets(text->text(), budget));
    ASSIGN_OR_RETURN(const std::vector<size_t> indices,
                     SliceIndices(offsets.size() - 1, bounds, budget));
    TemplateText slice;
    const bool is_whole_run =
        !indices.empty() && indices.back() - indices.front() + 1 == indices.size();
    if (is_whole_run) {
      slice = text->Substring(offsets[indices.front()], offsets[indices.back() + 1]);
    } else {
      for (const size_t index : indices) {
        slice.Append(text->Substring(offsets[index], offsets[index + 1]));
      }
    }
    return JinjaValue::Text(std::move(slice));
  }
  return JinjaTypeError(value, "cannot be sliced");
}

absl::StatusOr<JinjaItems> JinjaIterate(const JinjaValue& value, JinjaBudget& budget) {
  JinjaItems items;
  if (value.is_undefined()) return items;
  if (const JinjaList* list = value.list()) {
    RETURN_IF_ERROR(budget.Bytes(list->items.size() * sizeof(JinjaValue)));
    return list->items;
  }
  if (const JinjaDict* dict = value.dict()) {
    for (const auto& [key, item] : dict->entries) {
      RETURN_IF_ERROR(ChargeJinjaText(key, budget));
      items.push_back(JinjaValue::Text(key));
    }
    return items;
  }
  if (const TemplateText* text = value.text()) {
    for (size_t begin = 0, end = 0; begin < text->size(); begin = end) {
      NextCodePoint(text->text(), end);
      TemplateText character = text->Substring(begin, end);
      RETURN_IF_ERROR(ChargeJinjaText(character, budget));
      items.push_back(JinjaValue::Text(std::move(character)));
    }
    return items;
  }
  return JinjaTypeError(value, "cannot be iterated");
}

}  // namespace sluice
