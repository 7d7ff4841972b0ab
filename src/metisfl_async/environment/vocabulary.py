"""The words of MetisFL's environment files, in all its versions: what they are called here, or what to do instead."""

from __future__ import annotations

from metisfl_async.environment.gathering import Words

__all__ = [
    "COMMUNICATION",
    "CONNECTION",
    "CONTROLLER",
    "ENCRYPTION_SECTIONS",
    "ENVIRONMENT",
    "LEARNER",
    "LOCAL_MODEL",
    "SSL",
    "TRAINING",
]

_BY_HAND = "nothing is copied to other machines or started there; run `metisfl-async {}` on that one"
_SSH = "nobody logs in to other machines; only ConnectionConfig.Hostname is used, as the host to dial"
_OPTIMIZER = "your Learner makes its optimizer; pass options in controller_config.train_params"
_DATA = "your Learner loads its data; pass where it is in the learner's args"
_GPU = "set the environment variable CUDA_VISIBLE_DEVICES where the learner is started"

ENCRYPTION_SECTIONS = ("encryption_scheme", "encryption_config", "homomorphic_encryption")

ENVIRONMENT = Words(
    aliases={"termination_singals": "termination_signals"},  # as MetisFL spells its class
    refused={"docker_image": "install this package, and your learner's code, on each machine"},
)
TRAINING = Words(
    aliases={
        "pariticipation_ratio": "participation_ratio",  # as MetisFL's reader spells it
        "semi_sync_recompute": "semi_sync_recompute_num_updates",
    },
    refused={"learners": "those that listen are the entries with a port, in the file's section learners"},
)
COMMUNICATION = Words(aliases={**TRAINING.aliases, "name": "scheduler"}, refused=TRAINING.refused)
LOCAL_MODEL = Words(
    aliases={"local_epochs": "epochs"},
    refused={
        "validation_percentage": "your Learner decides what it evaluates on; pass the share in the learner's args",
        **dict.fromkeys(("optimizer", "optimizer_params", "optimizer_config"), _OPTIMIZER),
    },
)
_LOGIN = dict.fromkeys(("username", "password", "key_filename", "passphrase", "on_login_command"), _SSH)
CONTROLLER = Words(refused={"project_home": _BY_HAND.format("controller ENV"), "cuda_devices": _GPU, **_LOGIN})
LEARNER = Words(
    aliases={"id": "learner_id"},
    refused={
        "project_home": _BY_HAND.format("learner ENV"),
        "cuda_devices": _GPU,
        "dataset_configs": _DATA,
        "dataset_config": _DATA,
        **_LOGIN,
    },
)
CONNECTION = Words(refused={"port": _SSH, **_LOGIN})
SSL = Words(aliases={"public_certificate": "server_certificate"})
