"""Shapes and types are checked while testing; what needs a GPU says so. Must run before featot is imported."""

from __future__ import annotations

from jaxtyping import install_import_hook

# The PEP 484 tower: an int serves where a float is annotated, as it does for mypy.
CHECKER = "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
# Only modules that compute: the others check what users and plugin authors hand them, in featot's own words.
install_import_hook(["featot.ot", "featot.resample", "featot_plugins"], CHECKER)

import pytest  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(2)

CUDA = pytest.param(
    "cuda",
    marks=[
        pytest.mark.gpu,
        pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
    ],
)


@pytest.fixture(params=["cpu", CUDA])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Every device that a test should pass on."""
    return torch.device(request.param)
