"""The models of the client are those of the API, and do not import the HTTP client."""

import subprocess
import sys
import warnings


def test_the_models_are_those_of_the_openapi_document() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the generator, about its own future
        from testing.client_models import MODELS, rendered

        assert MODELS.read_text() == rendered(), "run `make client-models`"


def test_models_and_receivers_do_not_load_the_http_client() -> None:
    code = "import sys, everhook_client.models; print('httpx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
