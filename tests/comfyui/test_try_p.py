from __future__ import annotations
import time, pytest, torch
from comfyui_support.weighing import case_of, demo_case
from lags_pack.nodes.particles import LAGSParticleSampler, METHODS
from lags_pack.nodes.particle_run import *
from lags_pack.rewards import ColourReward, Weight
W = {"strength":1.0,"method":"lags","particles":4,"resampling":"from method","ess_threshold":-1.0,"tempering":"from method","evaluate_every":0,"particles_at_once":0,"output":"best","count":1}
def go(case, run_node, **ch):
    return run_node(LAGSParticleSampler, **{"model":case.model,"vae":case.vae,"weight":Weight.of(ColourReward("hue",0.0),60.0),**W,**case.settings,**ch})
@pytest.mark.parametrize("m", METHODS)
@pytest.mark.parametrize("kind", ["demo","sd15","sdxl"])
def test_a(run_node, sd15, sdxl, m, kind):
    case = demo_case(run_node, 2) if kind=="demo" else case_of(run_node, {"sd15":sd15,"sdxl":sdxl}[kind], 2)
    t=time.time()
    lat, lw, tr, txt = go(case, run_node, method=m, particles=1 if m=="das_1p" else 3, cfg=3.0)
    print(m, kind, time.time()-t, lat["samples"].shape, lw, txt, case.score(lat["samples"]), case.score(case.ksampler(sampler_name="euler_ancestral",cfg=3.0)))
    assert torch.isfinite(lat["samples"]).all()
