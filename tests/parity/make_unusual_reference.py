#!/usr/bin/env python3
"""Writes fixtures/tiny_jamba/unusual.h5: the reference of that model as another maker may lay it out.

usage: PYTHONPATH=tools tests/parity/make_unusual_reference.py   (from the root; needs what make_parity_fixtures.py does)

No attribute; a loss without the auxiliary loss; i32 ids; f64 logits in compressed chunks; gradients of
two layers' experts alone, one of them fused as transformers has them in memory; greedy rows that end at
token END (taken for EOS) and go on with padding.
"""

import pathlib

import h5py
import make_parity_fixtures
import torch
import transformers

FOLDER = pathlib.Path("tests/parity/fixtures/tiny_jamba")
END = 54


def main():
    with h5py.File(FOLDER / "reference.h5") as file:
        input_ids = torch.from_numpy(file["input_ids"][()])
        auxiliary_loss = file["auxiliary_loss"][()]
        greedy = file["greedy"][()]
    model = transformers.AutoModelForCausalLM.from_pretrained(
        FOLDER / "model", dtype=torch.float32
    )
    model = make_parity_fixtures.plain(model).eval()
    output = model(input_ids, labels=input_ids, output_router_logits=False, use_cache=False)
    output.loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    ended = 0
    for row in greedy:
        (at,) = (row == END).nonzero()
        if len(at):
            row[at[0] + 1 :] = model.config.pad_token_id
            ended += 1
    assert 0 < ended < len(greedy)
    with h5py.File(FOLDER / "unusual.h5", "w", libver="v110") as file:
        file.create_dataset("input_ids", data=input_ids.numpy().astype("i4"), track_times=False)
        file.create_dataset(
            "logits",
            data=output.logits.detach().double().numpy(),
            chunks=(1, 8, 83),
            compression="gzip",
            track_times=False,
        )
        file.create_dataset("loss", data=[output.loss.item()], track_times=False)
        file.create_dataset("auxiliary_loss", data=auxiliary_loss, track_times=False)
        file.create_dataset("greedy", data=greedy, track_times=False)
        fused = "model.layers.1.feed_forward.experts.gate_up_proj"
        file.create_dataset(f"gradients/{fused}", data=gradients[fused], track_times=False)
        down = gradients["model.layers.3.feed_forward.experts.down_proj"]
        for expert, gradient in enumerate(down):
            name = f"gradients/model.layers.3.feed_forward.experts.{expert}.down_proj.weight"
            file.create_dataset(name, data=gradient, track_times=False)


if __name__ == "__main__":
    main()
