import subprocess
import sys

import pytest

from danlu.engine.sampling import SamplingParams
from danlu.errors import RequestError


def test_defaults_draw_from_the_whole_distribution():
    params = SamplingParams()
    assert (params.temperature, params.top_k, params.top_p, params.min_p) == (1.0, 0, 1.0, 0.0)
    assert (params.max_tokens, params.n, params.stop, params.seed) == (256, 1, (), None)


def test_accepts_what_clients_send():
    params = SamplingParams(
        temperature=0, stop="\n", stop_token_ids=[5], logit_bias={"7": -100}, top_k=-1
    )
    assert params.is_greedy
    assert params.stop == ("\n",)
    assert params.stop_token_ids == (5,)
    assert params.logit_bias == {7: -100.0}
    assert SamplingParams(stop=None, response_format={"type": "text"}).stop == ()


def test_all_problems_come_at_once():
    with pytest.raises(RequestError) as caught:
        SamplingParams(temperature=-1, top_p=0, n=0, max_token=5, stop=["a", ""])
    message = str(caught.value)
    assert "5 wrong sampling parameters" in message
    assert "temperature: expected greater than or equal to 0; found -1" in message
    assert "top_p: expected greater than 0; found 0" in message
    assert "'max_token' is not a sampling parameter. Did you mean 'max_tokens'?" in message
    assert "an empty text would stop every answer at once" in message


@pytest.mark.parametrize(
    ("values", "part"),
    [
        ({"response_format": {"type": "json_object"}}, "not available yet"),
        ({"logit_bias": {3: 200.0}}, "from -100 to 100, found 3: 200.0"),
        ({"logit_bias": {"word": 1.0}}, "logit_bias.word"),
        ({"temperature": float("nan")}, "temperature: expected"),
        ({"temperature": "hot"}, "found 'hot'"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"logprobs": -1}, "logprobs"),
        ({"seed": 2**64}, "seed"),
        ({"presence_penalty": 3.0}, "presence_penalty"),
    ],
)
def test_a_wrong_value_is_named(values, part):
    with pytest.raises(RequestError, match="1 wrong sampling parameter:") as caught:
        SamplingParams(**values)
    assert part in str(caught.value)


def test_parameters_need_no_torch():
    code = "import sys, danlu.engine.sampling; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
