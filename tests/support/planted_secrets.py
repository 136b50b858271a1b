"""Environment variables with secrets, which must not appear in any file, page or command line of a run."""

PLANTED = "planted"
SECRETS = {
    "SLURM_JWT": "eyJplanted",
    "APP_PAT": "ghp_planted",
    "APP_PWD": "planted/with@signs",
    "AWS_SECRET_ACCESS_KEY": "planted",
    "_HOROVOD_SECRET_KEY": "planted",
    "HOROVOD_SECRET_KEY": "planted",
    "DATABASE_URL": "redis://:planted@host/0",
    "NCCL_TOKEN": "planted",
    "HOROVOD_LOG_LEVEL": "redis://:planted@host",
    "NCCL_DEBUG": "https://planted@host/x",
    "CUDA_VISIBLE_DEVICES": "https://host/x?sig=planted",
    "OMP_PLACES": "https://host/x?X-Amz-Signature=planted",
}
