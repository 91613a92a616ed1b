// Where a network ends early for most rows of a prompt: nothing reads the hidden state behind the
// last layer but the head, and the head only runs for the rows whose logits are wanted. The others
// need no more of that layer than their keys and values.
#pragma once

#include "engine/blocks/forward_context.h"
#include "engine/model/model_spec.h"

namespace sluice {

// Whether the last layer can leave out rows: it begins with an attention that can store keys and
// values of more rows than it runs, no row of it depends on another but by those, and no repeat
// carries more from it than the state.
bool LastLayerCanSkip(const ModelSpec& spec);

// The rows whose logits are wanted, as indices into `rows`, from the arena. Ascending origins.
kernels::RowSet WantedOf(const Rows& rows, ForwardContext& context);

}  // namespace sluice
