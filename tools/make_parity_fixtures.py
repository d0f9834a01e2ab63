#!/usr/bin/env python3
"""What transformers computes with a model, as a file that `plait parity` compares with.

usage: tools/make_parity_fixtures.py --model FOLDER --output REFERENCE.h5
       tools/make_parity_fixtures.py --preset tiny_jamba|odd_jamba|tiny_llama --output FOLDER
       tools/make_parity_fixtures.py --config CONFIG.json --output FOLDER

The first form runs a model that exists (a Hugging Face folder of a Jamba or Llama model) in f32 on the
CPU, on random tokens, so that anyone can check their own converted model:

  plait convert FOLDER CHECKPOINT && plait parity CHECKPOINT REFERENCE.h5

The others first make a model with random weights (every norm, bias, A_log and D too, so that none of
them hides) and write FOLDER/model (the Hugging Face folder) and FOLDER/reference.h5; with
--training-steps N also FOLDER/training.h5. They search from --seed upwards for weights and tokens
whose routing gap (probability of the last chosen expert less that of the first one not chosen, the
smallest over all tokens, layers and steps) exceeds --routing-gap: top-k there does not hang on
rounding. With training steps they also look for a model whose losses stay within --sensitivity when
its weights are changed by 1e-7: where rounding grows faster than that, 20 steps compare nothing.
tests/parity/fixtures was made by

  for name in tiny_jamba odd_jamba tiny_llama; do
    tools/make_parity_fixtures.py --preset $name --training-steps 20 --output tests/parity/fixtures/$name
  done

REFERENCE.h5 (HDF5, little-endian):
  input_ids       int64 [batch, tokens]              every row is one document; row by row, no padding
  logits          f32 [batch, tokens, vocabulary]
  loss            f32 scalar     mean over batch x (tokens - 1) shifted targets, plus
                                 auxiliary_loss_coefficient x auxiliary_loss where there are experts
  auxiliary_loss  f32 scalar     unscaled, pooled over all layers and rows; 0 without experts
  gradients/NAME  f32 in full    optional: d loss / d NAME, by the names and shapes of the tensors in
                                 the folder's safetensors files (one per expert)
  greedy          int64 [batch, new_tokens]          optional: the likeliest continuation of input_ids
  attributes of the file: tolerance_logits (relative to the larger of 1 and the logits' root mean
    square), tolerance_loss (relative to the larger of 1 and the loss), tolerance_gradients (relative
    to the largest element of each tensor), auxiliary_loss_coefficient, routing_gap, seed, model_type,
    torch_version, transformers_version
training.h5:
  input_ids       int64 [batch, tokens]              the same in every step; no padding id
  losses          f64 [steps]                        before each update, as `loss` above
  parameters/NAME f32 in full                        after the last update
  attributes of the file: learning_rate, beta1, beta2, epsilon, weight_decay, gradient_clip_norm

Needs torch, transformers, safetensors and h5py; nothing else of plait does.
"""

import argparse
import json
import math
import pathlib
import sys

try:
    import h5py
    import numpy
    import torch
    import transformers
except ImportError as error:  # --help works without them
    MISSING = error.name
else:
    MISSING = None

# Sizes are odd on purpose: a layout mistake must not go unseen because two sizes agree.
PRESETS = {
    "tiny_jamba": {
        "model_type": "jamba",
        "vocab_size": 83,
        "hidden_size": 24,
        "intermediate_size": 36,
        "num_hidden_layers": 5,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "attn_layer_period": 4,
        "attn_layer_offset": 2,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "mamba_d_state": 7,
        "mamba_d_conv": 4,
        "mamba_expand": 2,
        "mamba_dt_rank": "auto",
        "output_router_logits": True,
        "router_aux_loss_coef": 0.02,
    },
    "odd_jamba": {
        "model_type": "jamba",
        "vocab_size": 71,
        "hidden_size": 20,
        "intermediate_size": 26,
        "num_hidden_layers": 6,
        "num_attention_heads": 5,
        "num_key_value_heads": 1,
        "attn_layer_period": 3,
        "attn_layer_offset": 1,
        "expert_layer_period": 3,
        "expert_layer_offset": 2,
        "num_experts": 6,
        "num_experts_per_tok": 3,
        "mamba_d_state": 5,
        "mamba_d_conv": 3,
        "mamba_expand": 3,
        "mamba_dt_rank": 3,
        "mamba_conv_bias": False,
        "mamba_proj_bias": True,
        "tie_word_embeddings": True,
        "rms_norm_eps": 1e-5,
        "output_router_logits": True,
        "router_aux_loss_coef": 0.05,
        "eos_token_id": [2, 70],
    },
    "tiny_llama": {
        "model_type": "llama",
        "vocab_size": 79,
        "hidden_size": 24,
        "intermediate_size": 44,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
}

ADAMW = {
    "learning_rate": 2e-3,
    "beta1": 0.9,
    "beta2": 0.95,
    "epsilon": 1e-6,
    "weight_decay": 0.1,
    "gradient_clip_norm": 1.0,
}


def random_model(settings, seed):
    """A model of this config.json content, f32, with every parameter drawn anew."""
    classes = {
        "jamba": (transformers.JambaConfig, transformers.JambaForCausalLM),
        "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
    }
    settings = dict(settings)
    kind = settings.pop("model_type", None)
    if kind not in classes:
        sys.exit(f"model_type {kind!r}: expected one of {', '.join(classes)}")
    config_class, model_class = classes[kind]
    torch.manual_seed(seed)
    model = model_class(config_class(**settings, dtype="float32")).float()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn_like(parameter)
            if "norm" in name or name.endswith(".D"):
                parameter.copy_(1 + 0.3 * noise)
            elif name.endswith("A_log"):
                parameter.add_(0.3 * noise)
            elif name.endswith("dt_proj.bias"):
                parameter.copy_(noise - 1)
            elif name.endswith("bias"):
                parameter.copy_(0.3 * noise)
            elif "embed_tokens" in name:
                parameter.copy_(noise)
            elif "conv1d" in name:
                parameter.copy_(0.5 * noise)
            else:  # a product's output is about as large as its input
                parameter.copy_(noise / math.sqrt(parameter.shape[-1]))
    return model


def plain(model):
    """The same model on transformers' plain paths: each expert by itself, attention step by step."""
    model.set_attn_implementation("eager")
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")
    return model


def random_tokens(model, batch, tokens, seed):
    """int64 [batch, tokens]: any ids, special ones too, with the padding id in the middle of row 0.

    Not where the padding id's embedding is zero, as transformers initialises it: nothing then tells
    the experts apart for such a token, and which of them are chosen is an accident of the sort.
    """
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, model.config.vocab_size, (batch, tokens), generator=generator)
    padding = model.config.pad_token_id
    if padding is None:
        return ids
    if model.get_input_embeddings().weight[padding].any():
        ids[0, tokens // 2] = padding
        return ids
    return ids.masked_fill(ids == padding, (padding + 1) % model.config.vocab_size)


def run(model, input_ids):
    """(logits, loss, auxiliary loss or None) with every router loss on, and the routers' logits."""
    # Without any expert layer transformers fails where it is asked for the routers' logits.
    has_experts = any(count > 1 for count in getattr(model.config, "layers_num_experts", ()))
    extra = {"output_router_logits": True} if has_experts else {}
    output = model(
        input_ids=input_ids,
        attention_mask=torch.ones_like(input_ids),
        labels=input_ids,
        use_cache=False,
        **extra,
    )
    routers = output.router_logits if has_experts else ()
    auxiliary = output.aux_loss if has_experts else None
    return output.logits, output.loss, auxiliary, routers


def smallest_routing_gap(model, routers):
    gap = math.inf
    chosen = getattr(model.config, "num_experts_per_tok", 0)
    for logits in routers:
        probability = torch.softmax(logits.detach().double(), -1).sort(-1, descending=True).values
        if chosen < probability.shape[-1]:
            gap = min(gap, (probability[..., chosen - 1] - probability[..., chosen]).min().item())
    return gap


def disk_tensors(named):
    """(name, tensor) by the names that safetensors files use: experts one by one, gate and up apart."""
    for name, tensor in named:
        prefix, _, last = name.rpartition(".")
        if prefix.endswith(".experts") and last in ("gate_up_proj", "down_proj"):
            for e, expert in enumerate(tensor):
                if last == "down_proj":
                    yield f"{prefix}.{e}.down_proj.weight", expert
                else:
                    gate, up = expert.chunk(2, dim=0)
                    yield f"{prefix}.{e}.gate_proj.weight", gate
                    yield f"{prefix}.{e}.up_proj.weight", up
        else:
            yield name, tensor


def greedy_continuation(model, input_ids, new_tokens):
    """By the largest logit, without a cache, going on past EOS: int64 [batch, new_tokens]."""
    ids = input_ids
    with torch.no_grad():
        for _ in range(new_tokens):
            logits = model(ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
            ids = torch.cat([ids, logits[:, -1].argmax(-1, keepdim=True)], dim=1)
    return ids[:, input_ids.shape[1] :]


def reference(model, input_ids, arguments):
    """The content of REFERENCE.h5: (datasets, attributes)."""
    model.zero_grad(set_to_none=True)
    logits, loss, auxiliary, routers = run(model, input_ids)
    datasets = {
        "input_ids": input_ids.numpy(),
        "logits": logits.detach().float().numpy(),
        "loss": numpy.float32(loss.item()),
        "auxiliary_loss": numpy.float32(0 if auxiliary is None else auxiliary.item()),
    }
    if arguments.gradients:
        loss.backward()
        gradients = (
            (name, torch.zeros_like(p) if p.grad is None else p.grad)
            for name, p in model.named_parameters()
        )
        for name, gradient in disk_tensors(gradients):
            datasets[f"gradients/{name}"] = gradient.float().numpy()
    if arguments.new_tokens > 0:
        datasets["greedy"] = greedy_continuation(model, input_ids, arguments.new_tokens).numpy()
    attributes = {
        "tolerance_logits": 1e-4,
        "tolerance_loss": 1e-5,
        "tolerance_gradients": 1e-4,
        "auxiliary_loss_coefficient": float(
            0 if auxiliary is None else model.config.router_aux_loss_coef
        ),
        "model_type": model.config.model_type,
        "torch_version": str(torch.__version__),
        "transformers_version": transformers.__version__,
    }
    gap = smallest_routing_gap(model, routers)
    if math.isfinite(gap):
        attributes["routing_gap"] = gap
    return datasets, attributes


def decays(name):
    """Neither A_log, D, biases nor norm weights."""
    return not ("norm" in name or name.endswith((".A_log", ".D", "bias")))


def train(model, input_ids, steps):
    """AdamW on the same tokens: ((datasets, attributes) of training.h5, smallest routing gap). Changes the model."""
    groups = [
        {
            "params": [p for name, p in model.named_parameters() if decays(name) == decayed],
            "weight_decay": ADAMW["weight_decay"] if decayed else 0.0,
        }
        for decayed in (True, False)
    ]
    optimizer = torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=ADAMW["learning_rate"],
        betas=(ADAMW["beta1"], ADAMW["beta2"]),
        eps=ADAMW["epsilon"],
    )
    losses = []
    gap = math.inf
    for _ in range(steps):
        optimizer.zero_grad(set_to_none=True)
        _, loss, _, routers = run(model, input_ids)
        gap = min(gap, smallest_routing_gap(model, routers))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), ADAMW["gradient_clip_norm"])
        optimizer.step()
        losses.append(loss.item())
    datasets = {"input_ids": input_ids.numpy(), "losses": numpy.array(losses, numpy.float64)}
    for name, parameter in disk_tensors(model.named_parameters()):
        datasets[f"parameters/{name}"] = parameter.detach().numpy()
    return (datasets, dict(ADAMW)), gap


def train_twice(settings, seed, input_ids, steps):
    """train's result, with the largest difference of a loss when weights are changed by 1e-7."""
    model = plain(random_model(settings, seed)).train()
    if model.config.pad_token_id is not None:
        input_ids = input_ids.masked_fill(input_ids == model.config.pad_token_id, 3)
    result, gap = train(model, input_ids, steps)
    other = plain(random_model(settings, seed)).train()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1 + 1e-7 * torch.randn_like(parameter).sign())
    (datasets, _), other_gap = train(other, input_ids, steps)
    return result, min(gap, other_gap), abs(result[0]["losses"] - datasets["losses"]).max()


def write(path, content, seed):
    datasets, attributes = content
    with h5py.File(path, "w", libver="v110") as file:
        for name, values in datasets.items():
            file.create_dataset(name, data=values, track_times=False)
        for name, value in {**attributes, "seed": seed}.items():
            file.attrs[name] = value


def write_existing(arguments):
    model = transformers.AutoModelForCausalLM.from_pretrained(
        arguments.model, dtype=torch.float32
    )
    model = plain(model).eval()
    input_ids = random_tokens(model, arguments.batch, arguments.tokens, arguments.seed)
    content = reference(model, input_ids, arguments)
    gap = content[1].get("routing_gap", math.inf)
    if gap < arguments.routing_gap:
        print(
            f"routing gap {gap:.1e} is below {arguments.routing_gap:.1e}: rounding may flip an expert; "
            "another --seed gives other tokens",
            file=sys.stderr,
        )
    write(arguments.output, content, arguments.seed)


def write_random(arguments, settings):
    for seed in range(arguments.seed, arguments.seed + 1000):
        model = plain(random_model(settings, seed)).eval()
        input_ids = random_tokens(model, arguments.batch, arguments.tokens, seed)
        content = reference(model, input_ids, arguments)
        gap = content[1].get("routing_gap", math.inf)
        if gap < arguments.routing_gap:
            continue
        training = None
        sensitivity = 0.0
        if arguments.training_steps > 0:
            training, gap, sensitivity = train_twice(
                settings, seed, input_ids, arguments.training_steps
            )
            if gap < arguments.routing_gap or sensitivity > arguments.sensitivity:
                continue
        arguments.output.mkdir(parents=True, exist_ok=True)
        model.save_pretrained(arguments.output / "model")
        write(arguments.output / "reference.h5", content, seed)
        if training is not None:
            write(arguments.output / "training.h5", training, seed)
        print(
            f"{arguments.output}: seed {seed}, routing gap {gap:.1e}, "
            f"sensitivity {sensitivity:.1e}"
        )
        return
    sys.exit(f"no seed of 1000 has a routing gap above {arguments.routing_gap}")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", type=pathlib.Path, help="a Hugging Face folder")
    source.add_argument("--preset", choices=PRESETS, help="a built-in tiny model, random weights")
    source.add_argument("--config", type=pathlib.Path, help="a config.json, random weights")
    parser.add_argument("--output", type=pathlib.Path, required=True, help="REFERENCE.h5, or a folder")
    parser.add_argument("--batch", type=int, default=3, help="rows (default 3)")
    parser.add_argument("--tokens", type=int, default=19, help="tokens a row (default 19)")
    parser.add_argument("--new-tokens", type=int, default=8, help="greedy; 0: none (default 8)")
    parser.add_argument("--no-gradients", dest="gradients", action="store_false")
    parser.add_argument("--training-steps", type=int, default=0, help="AdamW steps (default 0)")
    parser.add_argument("--routing-gap", type=float, default=1e-4, help="(default 1e-4)")
    parser.add_argument("--sensitivity", type=float, default=5e-5, help="(default 5e-5)")
    parser.add_argument("--seed", type=int, default=1, help="(default 1)")
    arguments = parser.parse_args()
    if MISSING:
        sys.exit(f"no module {MISSING}: this needs torch, transformers, safetensors and h5py")
    torch.use_deterministic_algorithms(True)
    transformers.logging.set_verbosity_error()
    if arguments.model:
        write_existing(arguments)
    elif arguments.preset:
        write_random(arguments, PRESETS[arguments.preset])
    else:
        write_random(arguments, json.loads(arguments.config.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
