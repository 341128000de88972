"""Where several processes of a run find one another without being told."""

import os
from collections.abc import Mapping
from zlib import crc32

from jax._src.clusters import ClusterEnv


def find_cluster(environ: Mapping[str, str]) -> type[ClusterEnv] | None:
    """Where JAX recognises that it runs, if that says that there are several processes.

    Stricter than JAX: an allocation of several tasks is not yet a step of several, and
    not every pod of a cluster belongs to a job.
    """
    for cluster in ClusterEnv._cluster_types:
        if cluster.opt_in_only_method:
            continue
        if cluster.__name__ == "SlurmCluster":
            step_tasks = environ.get("SLURM_STEP_NUM_TASKS")
            if step_tasks not in (None, environ.get("SLURM_NTASKS")):
                continue
        if cluster.__name__ == "K8sCluster" and "JOB_COMPLETION_INDEX" not in environ:
            continue
        if cluster.is_env_present() and cluster.get_process_count() > 1:
            return cluster
    return None


class OpenMpi5(ClusterEnv):
    """OpenMPI from 5 on, which JAX does not recognise, on one host.

    It no longer tells where the first process is: on several hosts that has to be said.
    """

    name = "ompi5"

    @classmethod
    def is_env_present(cls) -> bool:
        """Whether mpirun started this process and does not say from where."""
        return (
            "OMPI_COMM_WORLD_SIZE" in os.environ
            and "OMPI_MCA_orte_hnp_uri" not in os.environ
        )

    @classmethod
    def get_coordinator_address(
        cls, timeout_secs: int | None, override_coordinator_port: str | None
    ) -> str:
        """This host, and a port that the processes of one job agree on."""
        del timeout_secs
        if os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE") != str(cls.get_process_count()):
            raise ValueError(
                "OpenMPI does not say on which host process 0 is: give "
                "--coordinator_address=host:port, with the first host of the job and a "
                "free port"
            )
        job = os.environ.get("PMIX_NAMESPACE", "").encode()
        return f"localhost:{override_coordinator_port or 61440 + crc32(job) % 4096}"

    @classmethod
    def get_process_count(cls) -> int:
        """All processes of the job."""
        return int(os.environ["OMPI_COMM_WORLD_SIZE"])

    @classmethod
    def get_process_id(cls) -> int:
        """This one's number."""
        return int(os.environ["OMPI_COMM_WORLD_RANK"])

    @classmethod
    def get_local_process_id(cls) -> int | None:
        """Its number on its host: the GPU that is its own."""
        return int(os.environ["OMPI_COMM_WORLD_LOCAL_RANK"])
