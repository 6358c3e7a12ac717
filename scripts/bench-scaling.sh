#!/usr/bin/env bash
# Runs the benchmark of several devices in one process and, where there is an mpirun, in several: scripts/bench-scaling.sh PROGRAM
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
program=${1:?usage: scripts/bench-scaling.sh PROGRAM}
mkdir -p output
{
    "$program" sums
    if scripts/setup.sh has-mpi; then
        for ranks in 2 4; do
            OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_btl=self,vader \
                OMPI_MCA_btl_vader_single_copy_mechanism=none mpirun -n "$ranks" --oversubscribe "$program" sums </dev/null
        done
    fi
    "$program" steps
} | tee output/scaling.json
