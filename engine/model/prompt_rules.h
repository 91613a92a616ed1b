// What a decoder's rules ask of a prompt, read off its spec.
#pragma once

#include "engine/model/model_spec.h"

namespace sluice {

// Whether a layer or an expert chooses among all rows of a prompt, or one decision is made for all:
// then the prompt runs in one step unless a request asks for another rule.
bool RoutesWholePrompt(const StackSpec& decoder);

// Whether experts choose among the rows of a prompt and have no rule for generated ones: such a
// model scores and embeds, and cannot continue a text by its own rule.
bool OnlyScores(const StackSpec& decoder);

}  // namespace sluice
