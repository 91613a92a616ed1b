// The profiling decorator: same bits, every op in the account, and bytes and operations that agree
// with the weights it was given.
#include "kernels/op_profile.h"

#include <algorithm>
#include <iterator>

#include "tests/kernels/backend_param.h"

namespace sluice::kernels {
namespace {

constexpr int32_t kRows = 5;
constexpr int64_t kDim = 96;
constexpr int32_t kHeads = 2;
constexpr int32_t kHeadDim = 48;

const OpCost* Find(const OpProfile& profile, std::string_view op) {
  for (const OpCost& cost : profile.costs()) {
    if (cost.op == op) return &cost;
  }
  return nullptr;
}

class OpProfileTest : public testing::Test {
 protected:
  void SetUp() override {
    plain_ = *CreateBackend({.device = "cpu", .threads = 1, .isa = "scalar"});
    profiled_ =
        WithProfile(*CreateBackend({.device = "cpu", .threads = 1, .isa = "scalar"}), &profile_);
  }

  PackedMatrix Weight(const std::string& label, int64_t n = 70) {
    Matrix values = RandomMatrix(n, kDim, 3);
    const WeightSource source = SourceOf(values);
    PackedMatrix packed = std::move(*profiled_->Pack({&source, 1}, WeightFormat::kBF16));
    packed.label = label;
    return packed;
  }

  void RunLinear(Backend& backend, const PackedMatrix& weight, Matrix& x, Matrix& out) {
    backend.Linear({.x = x.View(),
                    .x_rows = AllRows(kRows),
                    .weight = &weight,
                    .out = out.View(),
                    .out_rows = AllRows(kRows)});
  }

  OpProfile profile_;
  std::unique_ptr<Backend> plain_, profiled_;
};

TEST_F(OpProfileTest, LinearsAreCountedByTheLabelOfTheirWeightAndKeepTheirBits) {
  const PackedMatrix first = Weight("q_proj"), second = Weight("o_proj", 130);
  Matrix x = RandomMatrix(kRows, kDim, 1);
  Matrix wanted(kRows, 130), got(kRows, 130);
  RunLinear(*plain_, second, x, wanted);
  RunLinear(*profiled_, second, x, got);
  EXPECT_EQ(wanted.values, got.values);
  RunLinear(*profiled_, first, x, got);
  RunLinear(*profiled_, first, x, got);
  ASSERT_EQ(profile_.costs().size(), 2u);
  const OpCost& cost = profile_.costs()[1];
  EXPECT_EQ(cost.op, "linear");
  EXPECT_EQ(cost.label, "q_proj");
  EXPECT_EQ(cost.calls, 2);
  EXPECT_EQ(cost.bytes, 2.0 * static_cast<double>(first.bytes()));
  EXPECT_EQ(cost.operations, 2.0 * 2.0 * kRows * 70 * kDim);
  EXPECT_EQ(profile_.costs()[0].bytes, static_cast<double>(second.bytes()));
}

TEST_F(OpProfileTest, TimesOfTheOpsAddUpToLessThanTheWallTime) {
  const PackedMatrix weight = Weight("q_proj", 640);
  Matrix x = RandomMatrix(kRows, kDim, 1);
  Matrix out(kRows, 640);
  OpProfile outer;  // the same ops seen from one layer further out
  profiled_ = WithProfile(std::move(profiled_), &outer);
  for (int i = 0; i < 20; ++i) RunLinear(*profiled_, weight, x, out);
  double sum = 0.0;
  for (const OpCost& cost : profile_.costs()) sum += cost.seconds;
  EXPECT_GT(sum, 0.0);
  EXPECT_DOUBLE_EQ(profile_.seconds(), sum);
  EXPECT_LE(profile_.seconds() + profile_.bookkeeping_seconds(), outer.seconds());
  profile_.Reset();
  EXPECT_TRUE(profile_.costs().empty());
  EXPECT_EQ(profile_.bookkeeping_seconds(), 0.0);
}

TEST_F(OpProfileTest, ExpertsCountOnceACallHoweverManyRowsTheyTake) {
  PackedExperts experts =
      std::move(*profiled_->AllocateExperts(6, kDim, 64, true, WeightFormat::kBF16));
  experts.label = "experts";
  Matrix up = RandomMatrix(64, kDim, 5), down = RandomMatrix(kDim, 64, 6);
  for (int32_t e = 0; e < 6; ++e) {
    profiled_->PackExpert({SourceOf(up), SourceOf(up), SourceOf(down)}, e, experts);
  }
  Matrix x = RandomMatrix(3, kDim, 1);
  Matrix out(3, kDim);
  const std::vector<int32_t> ids = {0, 2, 2, 5, 6, 0};  // 6: a null expert
  const std::vector<float> weights(ids.size(), 1.0f);
  std::vector<char> workspace(static_cast<size_t>(profiled_->MoeWorkspaceBytes(experts, 3, 2)));
  MoeFfnArgs args{.x = x.View(), .x_rows = AllRows(3), .experts = &experts};
  args.expert_ids = ids.data();
  args.weights = weights.data();
  args.top_k = 2;
  args.out = out.View();
  args.out_rows = AllRows(3);
  args.workspace = workspace.data();
  profiled_->MoeFfn(args);
  const OpCost* cost = Find(profile_, "moe_ffn");
  ASSERT_NE(cost, nullptr);
  EXPECT_EQ(cost->label, "experts");
  EXPECT_EQ(cost->bytes, 3.0 * static_cast<double>(experts.bytes_per_expert()));
  EXPECT_EQ(cost->operations, 5.0 * 3.0 * 2.0 * kDim * 64);
  EXPECT_EQ(profile_.costs().size(), 1u) << "the ops inside a fused op are not counted again";
}

// Two sequences, of which one has two rows that share what they read, and write their own.
TEST_F(OpProfileTest, AttentionReadsEachSequenceOnceAndAppendingWritesEachRow) {
  KvLayerView kv;
  kv.geometry = {kHeads, kHeadDim, kHeadDim, DType::kBF16, 16};
  kv.page_bytes = profiled_->KvPageBytes(kv.geometry);
  const Buffer pool = std::move(*profiled_->Allocate(static_cast<size_t>(2 * kv.page_bytes)));
  const std::vector<int32_t> pages = {0, 1}, sequence = {0, 0, 1}, slot = {8, 9, 4};
  const std::vector<int32_t> begin = {0, 0, 0}, end = {9, 10, 5};
  kv.pool = pool.data();
  kv.page_table = pages.data();
  kv.sequence_stride = 1;
  kv.block_stride = 1;
  Matrix query = RandomMatrix(3, kDim, 1);
  Matrix out(3, kDim);
  AttentionArgs args{.kv = kv};
  args.rows = {sequence.data(), slot.data(), begin.data(), end.data(), 3};
  args.query = query.View();
  args.num_heads = kHeads;
  args.out = out.View();
  profiled_->AppendKv({.kv = kv, .rows = args.rows, .key = query.View(), .value = query.View()});
  profiled_->PagedAttention(args);
  const OpCost* cost = Find(profile_, "attention");
  ASSERT_NE(cost, nullptr);
  EXPECT_EQ(cost->bytes, (10.0 + 5.0) * kHeads * 2 * kHeadDim * 2);
  EXPECT_EQ(cost->operations, (9.0 + 10.0 + 5.0) * 4 * kHeads * kHeadDim);
  const OpCost* written = Find(profile_, "append_kv");
  ASSERT_NE(written, nullptr);
  EXPECT_EQ(written->bytes, 3.0 * kHeads * 2 * kHeadDim * 2);
}

// Bytes are of the rows read and written (f32), 480 numbers each, and of what else an op reads.
TEST_F(OpProfileTest, RowOpsAreInTheAccountWithWhatTheyNeed) {
  constexpr double kNumbers = kRows * kDim;
  Matrix x = RandomMatrix(kRows, kDim, 1);
  Matrix out(kRows, kDim);
  const PackedMatrix table = Weight("embed_tokens");
  const std::vector<int32_t> ids = {1, 2, 3, 4, 5};
  const std::vector<float> scores(kRows, 1.0f), thresholds(kRows, 0.0f);
  std::vector<int32_t> chosen(kRows);
  std::vector<int32_t> experts(2 * kRows);
  std::vector<float> weights(2 * kRows);
  const std::vector<float> ones(kDim, 1.0f);
  int32_t count = 0;
  profiled_->Embed(table, ids, 1.0f, out.View());
  profiled_->Norm({.weight = ones.data(),
                   .x = x.View(),
                   .x_rows = AllRows(kRows),
                   .out = out.View(),
                   .out_rows = AllRows(kRows)});
  profiled_->Activate({.gated = false, .x = x.View(), .rows = kRows, .out = out.View()});
  profiled_->Gather(x.View(), AllRows(kRows), out.View());
  profiled_->AddRows(x.View(), 1.0f, out.View(), AllRows(kRows));
  profiled_->CombineDepth(
      {.y = x.View(), .scores = scores.data(), .x = out.View(), .rows = AllRows(kRows)});
  profiled_->SelectAbove({scores.data(), thresholds.data(), kRows, chosen.data(), &count});
  RouteArgs route{.top_k = 2, .logits = x.View().Columns(0, 8), .rows = kRows};
  route.experts = experts.data();
  route.weights = weights.data();
  profiled_->Route(route);
  const std::vector<double> inverse_frequencies(kHeadDim / 2, 0.5);
  Matrix rope(kRows, kHeadDim);
  profiled_->RopeTable(
      {ids.data(), kRows, inverse_frequencies.data(), kHeadDim / 2, 1.0, rope.View()});
  profiled_->Rope({x.View(), kHeads, kHeadDim, RopeStyle::kHalf, rope.View(), AllRows(kRows)});
  profiled_->Fill(out.View(), 0.0f);

  struct Wanted {
    std::string_view op;
    double bytes, operations;
  };
  const Wanted wanted[] = {
      {"embed", kNumbers * (2 + 4), kNumbers},  // bf16
      {"norm", kNumbers * 8, kNumbers * 4},
      {"activate", kNumbers * 8, kNumbers},
      {"gather", kNumbers * 8, 0.0},
      {"add_rows", kNumbers * 12, kNumbers * 2},
      {"combine_depth", kNumbers * 12, kNumbers * 3},
      {"select_above", kRows * 12.0, kRows},
      {"route", kRows * (8 * 4 + 2 * 8.0), kRows * 8.0 * 3},
      {"rope_table", kRows * kHeadDim * 4.0, kRows * kHeadDim / 2.0 * 5},
      {"rope", kNumbers * 8, kNumbers * 3},
      {"fill", kNumbers * 4, 0.0},
  };
  EXPECT_EQ(profile_.costs().size(), std::size(wanted));
  for (const Wanted& want : wanted) {
    const OpCost* cost = Find(profile_, want.op);
    ASSERT_NE(cost, nullptr) << want.op;
    EXPECT_EQ(cost->calls, 1) << want.op;
    EXPECT_EQ(cost->bytes, want.bytes) << want.op;
    EXPECT_EQ(cost->operations, want.operations) << want.op;
  }
}

}  // namespace
}  // namespace sluice::kernels
