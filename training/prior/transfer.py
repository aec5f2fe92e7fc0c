"""Starting a prior from another: one of the mse objective for the energy objective, in few steps or
in one, or one that is to learn from other pairs.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lafite_shifted.encoders.encoder_id import EncoderId, check_same_encoder, weights_digest
from lafite_shifted.errors import InputError
from lafite_shifted.io.starter import model_name
from lafite_shifted.model_folder import find_part, load_prior
from lafite_shifted.prior.network import PriorConfig, PriorNetwork
from training.run_folder import recorded_start

# v_parameterisation: resolved it must be the same
MAY_DIFFER = ("objective", "step_budget", "v_parameterisation")


@dataclass(frozen=True)
class PriorStart:
    """The weights that a training begins with, and what config.json records of them."""

    record: Mapping[str, str]
    weights: Mapping[str, Tensor] | None = None  # None: the run resumes from its own checkpoint

    @staticmethod
    def of(init: Path, out: Path, config: PriorConfig, encoder_id: EncoderId) -> "PriorStart":
        """The averaged prior of a run or model folder. InputError unless it is of this CLIP and
        differs from `config` only in how many steps it takes and its objective. Where the run in
        `out` has begun with it, only what it recorded.
        """
        recorded = recorded_start(out, init)
        if recorded:
            return PriorStart(recorded)
        found = load_prior(find_part(init, "prior"), device=torch.device("cpu"))
        name = model_name(init)
        remedy = "Start from a prior of the same CLIP."
        check_same_encoder(found.encoder_id, encoder_id, what=f"--init {name}", remedy=remedy)
        theirs, ours = found.prior.config, config
        names = [f.name for f in dataclasses.fields(ours) if f.name not in MAY_DIFFER]
        other = [name for name in names if getattr(theirs, name) != getattr(ours, name)]
        if theirs.is_v_parameterised != ours.is_v_parameterised:
            other.append("v_parameterisation")
        if other:
            said = ", ".join(f"{n}={getattr(theirs, n)}" for n in other)
            raise InputError(
                f"--init {name} is a prior of another kind: there {said}. Give the same --preset, "
                "--process and --set prior... as it was trained with, or leave --init out."
            )
        weights = found.prior.network.state_dict()
        return PriorStart({"path": name, "weights": weights_digest(weights)}, weights)

    def apply(self, network: PriorNetwork) -> None:
        """Fill the network in place; the layer of the sample noise is new, and gives 0 at first."""
        if self.weights is None:
            return
        own = network.state_dict()
        new = {name: torch.zeros_like(own[name]) for name in own if name not in self.weights}
        network.load_state_dict(new | {n: t for n, t in self.weights.items() if n in own})
