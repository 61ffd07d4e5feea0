#pragma once
// What the tensors of a vision backbone are called by those who publish it: one table for Hugging
// Face (transformers), the authors (Meta, OpenAI and open_clip, BAAI) and timm. Data only:
// recipes/convert.hpp reads it in either direction, recipes/recognise_weights.hpp tells files by
// it.
//
// A row is one parameter (or a weight and its bias) in the three namings. A cell is a list of
// pieces joined by '|', whose rows follow each other in the parameter: query|key|value stands for
// one fused matrix elsewhere. A piece is a name, in which {i} stands for the number of a block and
// a final * for "weight" or "bias", and what differs about the tensor:
//   ~T   it is stored transposed
//   ~2   it is stored with that many axes, ones in front
//   0    (the whole piece) not stored: zeros, as long as its neighbours
// An empty cell: this naming has no such tensor. The first row that fits a name counts.
#include <iterator>
#include <moraine/core/config.hpp>

namespace moraine MORAINE_API {

enum class Naming : unsigned char { hf, meta, timm };
inline constexpr int namings = 3;
inline const char* name_of(Naming n) {
  constexpr const char* names[] = {"hf", "meta", "timm"};
  return names[static_cast<int>(n)];
}

struct NameRow {
  const char* cell[namings];  ///< by Naming
};
/// Some rows with what stands in front of their names.
struct NamePart {
  const NameRow* rows;
  int count;
  const char* prefix[namings];
};
struct NameFamily {
  const char* name;
  /// By Naming: names (without the first part's prefix) that tell a file, separated by blanks; one
  /// with ! must not be there; a%b asks for a with twice as many rows as b has columns. Null: the
  /// family has no such naming.
  const char* sign[namings];
  const NamePart* parts;
  int count;
  /// Globs of what a backbone has no use for, in any naming; separated by blanks.
  const char* ignored;
};

namespace detail {

template <int N>
constexpr NamePart name_part(const NameRow (&rows)[N], const char* hf = "", const char* meta = "",
                             const char* timm = "") {
  return {rows, N, {hf, meta, timm}};
}

// DINOv2: transformers modeling_dinov2.py, facebookresearch/dinov2, timm vision_transformer.py.
inline constexpr NameRow dinov2_rows[] = {
    {"embeddings.cls_token", "cls_token", "cls_token"},
    {"embeddings.mask_token", "mask_token", ""},
    {"embeddings.register_tokens", "register_tokens", "reg_token"},
    {"embeddings.position_embeddings", "pos_embed", "pos_embed"},
    {"embeddings.patch_embeddings.projection.*", "patch_embed.proj.*", "patch_embed.proj.*"},
    {"encoder.layer.{i}.norm1.*", "blocks.{i}.norm1.*", "blocks.{i}.norm1.*"},
    {"encoder.layer.{i}.attention.attention.query.*|encoder.layer.{i}.attention.attention.key.*|"
     "encoder.layer.{i}.attention.attention.value.*",
     "blocks.{i}.attn.qkv.*", "blocks.{i}.attn.qkv.*"},
    {"encoder.layer.{i}.attention.output.dense.*", "blocks.{i}.attn.proj.*",
     "blocks.{i}.attn.proj.*"},
    {"encoder.layer.{i}.layer_scale1.lambda1", "blocks.{i}.ls1.gamma", "blocks.{i}.ls1.gamma"},
    {"encoder.layer.{i}.norm2.*", "blocks.{i}.norm2.*", "blocks.{i}.norm2.*"},
    {"encoder.layer.{i}.layer_scale2.lambda1", "blocks.{i}.ls2.gamma", "blocks.{i}.ls2.gamma"},
    {"layernorm.*", "norm.*", "norm.*"}};
inline constexpr NameRow dinov2_mlp[] = {
    {"encoder.layer.{i}.mlp.fc1.*", "blocks.{i}.mlp.fc1.*", "blocks.{i}.mlp.fc1.*"},
    {"encoder.layer.{i}.mlp.fc2.*", "blocks.{i}.mlp.fc2.*", "blocks.{i}.mlp.fc2.*"}};
inline constexpr NameRow dinov2_gated[] = {  // gate and value packed, the gate first, everywhere
    {"encoder.layer.{i}.mlp.weights_in.*", "blocks.{i}.mlp.w12.*", "blocks.{i}.mlp.fc1.*"},
    {"encoder.layer.{i}.mlp.weights_out.*", "blocks.{i}.mlp.w3.*", "blocks.{i}.mlp.fc2.*"}};
inline constexpr NamePart dinov2_parts[] = {name_part(dinov2_rows), name_part(dinov2_mlp)};
inline constexpr NamePart dinov2_gated_parts[] = {name_part(dinov2_rows), name_part(dinov2_gated)};

// DINOv3: transformers modeling_dinov3_vit.py and its converter, facebookresearch/dinov3, timm
// eva.py. The effective key bias is zero: masked in Meta's files, not stored in the others.
inline constexpr NameRow dinov3_rows[] = {
    {"embeddings.cls_token", "cls_token", "cls_token"},
    {"embeddings.mask_token~3", "mask_token~2", ""},
    {"embeddings.register_tokens", "storage_tokens", "reg_token"},
    {"embeddings.patch_embeddings.*", "patch_embed.proj.*", "patch_embed.proj.*"},
    {"", "rope_embed.periods", ""},
    {"layer.{i}.norm1.*", "blocks.{i}.norm1.*", "blocks.{i}.norm1.*"},
    {"layer.{i}.attention.q_proj.weight|layer.{i}.attention.k_proj.weight|"
     "layer.{i}.attention.v_proj.weight",
     "blocks.{i}.attn.qkv.weight", "blocks.{i}.attn.qkv.weight"},
    {"layer.{i}.attention.q_proj.bias|0|layer.{i}.attention.v_proj.bias",
     "blocks.{i}.attn.qkv.bias", "blocks.{i}.attn.q_bias|0|blocks.{i}.attn.v_bias"},
    {"layer.{i}.attention.o_proj.*", "blocks.{i}.attn.proj.*", "blocks.{i}.attn.proj.*"},
    {"layer.{i}.layer_scale1.lambda1", "blocks.{i}.ls1.gamma", "blocks.{i}.gamma_1"},
    {"layer.{i}.norm2.*", "blocks.{i}.norm2.*", "blocks.{i}.norm2.*"},
    {"layer.{i}.layer_scale2.lambda1", "blocks.{i}.ls2.gamma", "blocks.{i}.gamma_2"},
    {"norm.*", "norm.*", "norm.*"}};
inline constexpr NameRow dinov3_mlp[] = {
    {"layer.{i}.mlp.up_proj.*", "blocks.{i}.mlp.fc1.*", "blocks.{i}.mlp.fc1.*"},
    {"layer.{i}.mlp.down_proj.*", "blocks.{i}.mlp.fc2.*", "blocks.{i}.mlp.fc2.*"}};
inline constexpr NameRow dinov3_gated[] = {  // up_proj is the value here, not the first layer
    {"layer.{i}.mlp.gate_proj.*", "blocks.{i}.mlp.w1.*", "blocks.{i}.mlp.fc1_g.*"},
    {"layer.{i}.mlp.up_proj.*", "blocks.{i}.mlp.w2.*", "blocks.{i}.mlp.fc1_x.*"},
    {"layer.{i}.mlp.down_proj.*", "blocks.{i}.mlp.w3.*", "blocks.{i}.mlp.fc2.*"}};
inline constexpr NamePart dinov3_parts[] = {name_part(dinov3_rows), name_part(dinov3_mlp)};
inline constexpr NamePart dinov3_gated_parts[] = {name_part(dinov3_rows), name_part(dinov3_gated)};

// CLIP's vision tower: transformers modeling_clip.py, openai/CLIP (open_clip has the same names),
// timm vision_transformer.py.
inline constexpr NameRow clip_rows[] = {
    {"embeddings.class_embedding~1", "class_embedding~1", "cls_token~3"},
    {"embeddings.patch_embedding.weight", "conv1.weight", "patch_embed.proj.weight"},
    {"embeddings.position_embedding.weight~2", "positional_embedding~2", "pos_embed~3"},
    {"pre_layrnorm.*", "ln_pre.*", "norm_pre.*"},
    {"encoder.layers.{i}.layer_norm1.*", "transformer.resblocks.{i}.ln_1.*", "blocks.{i}.norm1.*"},
    {"encoder.layers.{i}.self_attn.q_proj.weight|encoder.layers.{i}.self_attn.k_proj.weight|"
     "encoder.layers.{i}.self_attn.v_proj.weight",
     "transformer.resblocks.{i}.attn.in_proj_weight", "blocks.{i}.attn.qkv.weight"},
    {"encoder.layers.{i}.self_attn.q_proj.bias|encoder.layers.{i}.self_attn.k_proj.bias|"
     "encoder.layers.{i}.self_attn.v_proj.bias",
     "transformer.resblocks.{i}.attn.in_proj_bias", "blocks.{i}.attn.qkv.bias"},
    {"encoder.layers.{i}.self_attn.out_proj.*", "transformer.resblocks.{i}.attn.out_proj.*",
     "blocks.{i}.attn.proj.*"},
    {"encoder.layers.{i}.layer_norm2.*", "transformer.resblocks.{i}.ln_2.*", "blocks.{i}.norm2.*"},
    {"encoder.layers.{i}.mlp.fc1.*", "transformer.resblocks.{i}.mlp.c_fc.*",
     "blocks.{i}.mlp.fc1.*"},
    {"encoder.layers.{i}.mlp.fc2.*", "transformer.resblocks.{i}.mlp.c_proj.*",
     "blocks.{i}.mlp.fc2.*"},
    {"post_layernorm.*", "ln_post.*", "norm.*"}};
inline constexpr NameRow clip_projection[] = {
    {"visual_projection.weight", "visual.proj~T", "head.weight"}};
inline constexpr NamePart clip_parts[] = {name_part(clip_rows, "vision_model.", "visual."),
                                          name_part(clip_projection)};

// SAM's image encoder: transformers modeling_sam.py, facebookresearch/segment-anything, timm sam.
inline constexpr NameRow sam_rows[] = {
    {"pos_embed", "pos_embed", "pos_embed"},
    {"patch_embed.projection.*", "patch_embed.proj.*", "patch_embed.proj.*"},
    {"layers.{i}.layer_norm1.*", "blocks.{i}.norm1.*", "blocks.{i}.norm1.*"},
    {"layers.{i}.layer_norm2.*", "blocks.{i}.norm2.*", "blocks.{i}.norm2.*"},
    {"layers.{i}.attn.qkv.*", "blocks.{i}.attn.qkv.*", "blocks.{i}.attn.qkv.*"},
    {"layers.{i}.attn.proj.*", "blocks.{i}.attn.proj.*", "blocks.{i}.attn.proj.*"},
    {"layers.{i}.attn.rel_pos_h", "blocks.{i}.attn.rel_pos_h", "blocks.{i}.attn.rel_pos_h"},
    {"layers.{i}.attn.rel_pos_w", "blocks.{i}.attn.rel_pos_w", "blocks.{i}.attn.rel_pos_w"},
    {"layers.{i}.mlp.lin1.*", "blocks.{i}.mlp.lin1.*", "blocks.{i}.mlp.fc1.*"},
    {"layers.{i}.mlp.lin2.*", "blocks.{i}.mlp.lin2.*", "blocks.{i}.mlp.fc2.*"},
    {"neck.conv1.weight", "neck.0.weight", "neck.0.weight"},
    {"neck.layer_norm1.*", "neck.1.*", "neck.1.*"},
    {"neck.conv2.weight", "neck.2.weight", "neck.2.weight"},
    {"neck.layer_norm2.*", "neck.3.*", "neck.3.*"}};
inline constexpr NamePart sam_parts[] = {name_part(sam_rows, "vision_encoder.", "image_encoder.")};

// EVA-02: timm eva.py, baaivision/EVA. No class of transformers. The authors' norm is per token;
// timm keeps it as the norm after pooling.
inline constexpr NameRow eva02_rows[] = {
    {"", "cls_token", "cls_token"},
    {"", "pos_embed", "pos_embed"},
    {"", "patch_embed.proj.*", "patch_embed.proj.*"},
    {"", "blocks.{i}.norm1.*", "blocks.{i}.norm1.*"},
    {"", "blocks.{i}.norm2.*", "blocks.{i}.norm2.*"},
    {"", "blocks.{i}.attn.q_proj.weight", "blocks.{i}.attn.q_proj.weight"},
    {"", "blocks.{i}.attn.k_proj.weight", "blocks.{i}.attn.k_proj.weight"},
    {"", "blocks.{i}.attn.v_proj.weight", "blocks.{i}.attn.v_proj.weight"},
    {"", "blocks.{i}.attn.q_bias", "blocks.{i}.attn.q_proj.bias"},
    {"", "blocks.{i}.attn.v_bias", "blocks.{i}.attn.v_proj.bias"},
    {"", "blocks.{i}.attn.proj.*", "blocks.{i}.attn.proj.*"},
    {"", "blocks.{i}.mlp.w1.*", "blocks.{i}.mlp.fc1_g.*"},
    {"", "blocks.{i}.mlp.w2.*", "blocks.{i}.mlp.fc1_x.*"},
    {"", "blocks.{i}.mlp.ffn_ln.*", "blocks.{i}.mlp.norm.*"},
    {"", "blocks.{i}.mlp.w3.*", "blocks.{i}.mlp.fc2.*"},
    {"", "norm.*", "fc_norm.*"},
    {"", "fc_norm.*", "fc_norm.*"},
    {"", "norm.*", "norm.*"},
    {"", "head.*", "head.*"}};
inline constexpr NamePart eva02_parts[] = {name_part(eva02_rows)};
/// Tiny and small as timm builds them: one fused product, gate and value packed.
inline constexpr NameRow eva02_fused_rows[] = {{"", "", "cls_token"},
                                               {"", "", "pos_embed"},
                                               {"", "", "patch_embed.proj.*"},
                                               {"", "", "blocks.{i}.norm1.*"},
                                               {"", "", "blocks.{i}.norm2.*"},
                                               {"", "", "blocks.{i}.attn.qkv.weight"},
                                               {"", "", "blocks.{i}.attn.q_bias"},
                                               {"", "", "blocks.{i}.attn.v_bias"},
                                               {"", "", "blocks.{i}.attn.proj.*"},
                                               {"", "", "blocks.{i}.mlp.fc1.*"},
                                               {"", "", "blocks.{i}.mlp.fc2.*"},
                                               {"", "", "fc_norm.*"},
                                               {"", "", "norm.*"},
                                               {"", "", "head.*"}};
inline constexpr NamePart eva02_fused_parts[] = {name_part(eva02_fused_rows)};

// DOFA: the authors' names, which torchgeo has too; all three namings are one.
#define MORAINE_SAME(name) \
  { name, name, name }
inline constexpr NameRow dofa_rows[] = {
    MORAINE_SAME("cls_token"),
    MORAINE_SAME("pos_embed"),
    MORAINE_SAME("patch_embed.weight_generator.weight_tokens"),
    MORAINE_SAME("patch_embed.weight_generator.bias_token"),
    MORAINE_SAME(
        "patch_embed.weight_generator.transformer_encoder.layers.{i}.self_attn.in_proj_weight"),
    MORAINE_SAME(
        "patch_embed.weight_generator.transformer_encoder.layers.{i}.self_attn.in_proj_bias"),
    MORAINE_SAME(
        "patch_embed.weight_generator.transformer_encoder.layers.{i}.self_attn.out_proj.*"),
    MORAINE_SAME("patch_embed.weight_generator.transformer_encoder.layers.{i}.linear1.*"),
    MORAINE_SAME("patch_embed.weight_generator.transformer_encoder.layers.{i}.linear2.*"),
    MORAINE_SAME("patch_embed.weight_generator.transformer_encoder.layers.{i}.norm1.*"),
    MORAINE_SAME("patch_embed.weight_generator.transformer_encoder.layers.{i}.norm2.*"),
    MORAINE_SAME("patch_embed.weight_generator.fc_weight.*"),
    MORAINE_SAME("patch_embed.weight_generator.fc_bias.*"),
    MORAINE_SAME("patch_embed.fclayer.w1.*"),
    MORAINE_SAME("patch_embed.fclayer.w2.*"),
    MORAINE_SAME("blocks.{i}.norm1.*"),
    MORAINE_SAME("blocks.{i}.norm2.*"),
    MORAINE_SAME("blocks.{i}.attn.qkv.*"),
    MORAINE_SAME("blocks.{i}.attn.proj.*"),
    MORAINE_SAME("blocks.{i}.mlp.fc1.*"),
    MORAINE_SAME("blocks.{i}.mlp.fc2.*"),
    MORAINE_SAME("fc_norm.*"),
    MORAINE_SAME("norm.*"),
    MORAINE_SAME("head.*")};
#undef MORAINE_SAME
inline constexpr NamePart dofa_parts[] = {name_part(dofa_rows)};

// Depth Anything V2 and Prompt Depth Anything: DINOv2 within a DPT head. transformers counts the
// fusion layers from the coarse end.
#define MORAINE_FUSION(j, k)                                                                      \
  {"neck.fusion_stage.layers." j ".projection.*", "depth_head.scratch.refinenet" k ".out_conv.*", \
   ""},                                                                                           \
      {"neck.fusion_stage.layers." j ".residual_layer1.convolution1.*",                           \
       "depth_head.scratch.refinenet" k ".resConfUnit1.conv1.*", ""},                             \
      {"neck.fusion_stage.layers." j ".residual_layer1.convolution2.*",                           \
       "depth_head.scratch.refinenet" k ".resConfUnit1.conv2.*", ""},                             \
      {"neck.fusion_stage.layers." j ".residual_layer2.convolution1.*",                           \
       "depth_head.scratch.refinenet" k ".resConfUnit2.conv1.*", ""},                             \
      {"neck.fusion_stage.layers." j ".residual_layer2.convolution2.*",                           \
       "depth_head.scratch.refinenet" k ".resConfUnit2.conv2.*", ""},                             \
      {"neck.fusion_stage.layers." j ".prompt_depth_layer.convolution1.*",                        \
       "depth_head.scratch.refinenet" k ".resConfUnit_depth.0.*", ""},                            \
      {"neck.fusion_stage.layers." j ".prompt_depth_layer.convolution2.*",                        \
       "depth_head.scratch.refinenet" k ".resConfUnit_depth.2.*", ""},                            \
  {                                                                                               \
    "neck.fusion_stage.layers." j ".prompt_depth_layer.convolution3.*",                           \
        "depth_head.scratch.refinenet" k ".resConfUnit_depth.4.*", ""                             \
  }
inline constexpr NameRow dpt_rows[] = {
    {"neck.reassemble_stage.layers.{i}.projection.*", "depth_head.projects.{i}.*", ""},
    {"neck.reassemble_stage.layers.{i}.resize.*", "depth_head.resize_layers.{i}.*", ""},
    {"neck.convs.0.weight", "depth_head.scratch.layer1_rn.weight", ""},
    {"neck.convs.1.weight", "depth_head.scratch.layer2_rn.weight", ""},
    {"neck.convs.2.weight", "depth_head.scratch.layer3_rn.weight", ""},
    {"neck.convs.3.weight", "depth_head.scratch.layer4_rn.weight", ""},
    MORAINE_FUSION("0", "4"),
    MORAINE_FUSION("1", "3"),
    MORAINE_FUSION("2", "2"),
    MORAINE_FUSION("3", "1"),
    {"head.conv1.*", "depth_head.scratch.output_conv1.*", ""},
    {"head.conv2.*", "depth_head.scratch.output_conv2.0.*", ""},
    {"head.conv3.*", "depth_head.scratch.output_conv2.2.*", ""}};
#undef MORAINE_FUSION
inline constexpr NamePart depth_anything_parts[] = {
    name_part(dinov2_rows, "backbone.", "pretrained."),
    name_part(dinov2_mlp, "backbone.", "pretrained."), name_part(dpt_rows)};
inline constexpr NamePart depth_anything_gated_parts[] = {
    name_part(dinov2_rows, "backbone.", "pretrained."),
    name_part(dinov2_gated, "backbone.", "pretrained."), name_part(dpt_rows)};

}  // namespace detail

/// Every family; a gated one is the same model with a SwiGLU.
inline constexpr NameFamily name_families[] = {
    {"dinov2",
     {"embeddings.patch_embeddings.projection.weight encoder.layer.0.layer_scale1.lambda1 "
      "encoder.layer.0.mlp.fc1.weight",
      "pos_embed blocks.0.ls1.gamma blocks.0.mlp.fc1.weight !reg_token "
      "!blocks.0.mlp.fc1.weight%blocks.0.mlp.fc2.weight",
      "pos_embed blocks.0.ls1.gamma blocks.0.mlp.fc1.weight !mask_token !register_tokens "
      "!blocks.0.mlp.fc1.weight%blocks.0.mlp.fc2.weight"},
     detail::dinov2_parts,
     2,
     "classifier.** head.** linear_head.** dino_head.** ibot_head.**"},
    {"dinov2_gated",
     {"embeddings.patch_embeddings.projection.weight encoder.layer.0.layer_scale1.lambda1 "
      "encoder.layer.0.mlp.weights_in.weight",
      "pos_embed blocks.0.ls1.gamma blocks.0.mlp.w12.weight",
      "pos_embed blocks.0.ls1.gamma blocks.0.mlp.fc1.weight%blocks.0.mlp.fc2.weight"},
     detail::dinov2_gated_parts,
     2,
     "classifier.** head.** linear_head.** dino_head.** ibot_head.**"},
    {"dinov3",
     {"embeddings.patch_embeddings.weight layer.0.layer_scale1.lambda1 "
      "!layer.0.mlp.gate_proj.weight",
      "storage_tokens blocks.0.ls1.gamma blocks.0.mlp.fc1.weight",
      "blocks.0.gamma_1 blocks.0.mlp.fc1.weight !pos_embed"},
     detail::dinov3_parts,
     2,
     "local_cls_norm.* blocks.*.attn.qkv.bias_mask classifier.** head.**"},
    {"dinov3_gated",
     {"embeddings.patch_embeddings.weight layer.0.layer_scale1.lambda1 "
      "layer.0.mlp.gate_proj.weight",
      "storage_tokens blocks.0.ls1.gamma blocks.0.mlp.w1.weight",
      "blocks.0.gamma_1 blocks.0.mlp.fc1_g.weight !pos_embed"},
     detail::dinov3_gated_parts,
     2,
     "local_cls_norm.* blocks.*.attn.qkv.bias_mask classifier.** head.**"},
    {"clip",
     {"pre_layrnorm.weight embeddings.class_embedding",
      "class_embedding conv1.weight ln_pre.weight",
      "norm_pre.weight cls_token blocks.0.attn.qkv.weight"},
     detail::clip_parts,
     2,
     "text_model.** text_projection.weight text_projection logit_scale logit_bias **position_ids "
     "transformer.resblocks.** token_embedding.weight positional_embedding ln_final.* attn_mask "
     "input_resolution context_length vocab_size head.bias"},
    {"sam",
     {"neck.conv1.weight patch_embed.projection.weight", "neck.0.weight blocks.0.mlp.lin1.weight",
      "neck.0.weight blocks.0.mlp.fc1.weight"},
     detail::sam_parts,
     1,
     "prompt_encoder.** mask_decoder.** shared_image_embedding.** pixel_mean pixel_std"},
    {"eva02",
     {nullptr, "pos_embed blocks.0.mlp.w1.weight blocks.0.attn.q_bias blocks.0.attn.q_proj.weight",
      "pos_embed blocks.0.mlp.fc1_g.weight blocks.0.attn.q_proj.weight"},
     detail::eva02_parts,
     1,
     "mask_token lm_head.* rope.* blocks.*.attn.rope.*"},
    {"eva02_fused",
     {nullptr, nullptr,
      "pos_embed blocks.0.attn.q_bias blocks.0.attn.qkv.weight "
      "blocks.0.mlp.fc1.weight%blocks.0.mlp.fc2.weight"},
     detail::eva02_fused_parts,
     1,
     "mask_token lm_head.* rope.* blocks.*.attn.rope.*"},
    {"dofa",
     {"patch_embed.weight_generator.weight_tokens", "patch_embed.weight_generator.weight_tokens",
      "patch_embed.weight_generator.weight_tokens"},
     detail::dofa_parts,
     1,
     "mask_token projector.** decoder**"},
    {"depth_anything",
     {"embeddings.patch_embeddings.projection.weight encoder.layer.0.mlp.fc1.weight",
      "patch_embed.proj.weight blocks.0.ls1.gamma blocks.0.mlp.fc1.weight", nullptr},
     detail::depth_anything_parts,
     3,
     "_mean _std"},
    {"depth_anything_gated",
     {"embeddings.patch_embeddings.projection.weight encoder.layer.0.mlp.weights_in.weight",
      "patch_embed.proj.weight blocks.0.ls1.gamma blocks.0.mlp.w12.weight", nullptr},
     detail::depth_anything_gated_parts,
     3,
     "_mean _std"}};

}  // namespace moraine
