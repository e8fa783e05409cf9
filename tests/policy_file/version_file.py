"""Write ``version_N.onnx`` beside this module: a small policy with a record of this version, for later readers.

Run by ``make version`` after the version of the record was raised, and committed; never written again.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecNormalize

from sb3_clanker import ExportOptions, export_policy
from sb3_clanker.policy_file.record import SCHEMA_VERSION
from tests.worlds import make_env, make_model

FOLDER = Path(__file__).parent


def main() -> None:
    """Export a policy with as many fields of its record filled as there can be."""
    path = FOLDER / f"version_{SCHEMA_VERSION}.onnx"
    if path.exists():
        raise SystemExit(f"{path} is there already: it is kept as it was written.")
    observation = spaces.Dict({"arm": spaces.Box(-1.0, 2.0, (2,), np.float32), "mode": spaces.Discrete(2)})
    env = VecNormalize(make_env(observation, spaces.Box(-1.0, 1.0, (1,), np.float32)), norm_obs_keys=["arm"])
    model = make_model(PPO, env=env, policy="MultiInputPolicy", policy_kwargs={"net_arch": [4]})
    model.learn(16)
    options = ExportOptions(
        further_outputs=("distribution",), action_units=["Nm"], control_period=0.02, metadata={"robot": "arm-3"}
    )
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / path.with_suffix(".zip").name)
        path.write_bytes(export_policy(model, Path(folder) / path.name, options=options).path.read_bytes())


if __name__ == "__main__":
    main()
