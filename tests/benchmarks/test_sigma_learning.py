"""The arms of the comparison differ in what they say and in nothing else."""

import pytest

from benchmarks.sigma_learning import ARMS, Outcome, active_weights, eco_config, table


def test_the_decoder_has_as_many_active_weights():
    sigma, decoder = (active_weights(ARMS[arm]) for arm in list(ARMS)[:2])
    assert decoder == pytest.approx(sigma, rel=0.01)


def test_a_dense_layer_meets_a_token_with_as_many_weights_as_its_experts():
    router = 6 * 4 * 128
    assert active_weights(ARMS["dense feed-forward"]) == active_weights({}) - router


@pytest.mark.parametrize("arm", [arm for arm in ARMS if arm != "sigma-tiny" and not arm.startswith("decoder")])
def test_an_arm_changes_one_setting(arm):
    base, changed = eco_config({}).model_dump(), eco_config(ARMS[arm]).model_dump()
    assert len([key for key in base if base[key] != changed[key]]) == 1


def test_the_table_pairs_runs_of_one_seed():
    found = {
        (arm, seed): Outcome(arm, seed, value, 10.0, 2_000_000)
        for (arm, seed), value in {
            ("sigma-tiny", 0): 2.0, ("sigma-tiny", 1): 3.0, ("no RIB", 0): 2.5, ("no RIB", 1): 3.25,
        }.items()
    }  # fmt: skip
    assert list(table(found))[-1] == "| no RIB | 2.00 M | 2.500 | 3.250 | 2.875 | +0.375 (+0.250 to +0.500) | 10 |"
