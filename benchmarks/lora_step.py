"""x"""
from __future__ import annotations
import argparse, time, sys
from typing import Any
import torch, numpy as np
from torch import Tensor, nn
import torch.nn.functional as F
from bequest.nn.lowrank import add_low_rank, targets

def minilm():
    from bequest import sources
    body = sources.get("minilm_l6").network().body
    g = torch.Generator().manual_seed(0)
    ids = torch.randint(1000, 20000, (16, 128), generator=g)
    return body, (ids, torch.ones(16, 128, dtype=torch.long))

def vit(batch=16):
    import timm
    body = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    return body, (torch.randn(batch, 3, 224, 224, generator=torch.Generator().manual_seed(0)),)

class Enc(nn.Module):
    def __init__(self, m): super().__init__(); self.m=m
    def forward(self, ids, mask): return self.m(ids, attention_mask=mask).last_hidden_state.mean(1)
def wide():
    from transformers import BertConfig, BertModel
    m = BertModel(BertConfig(num_hidden_layers=3), add_pooling_layer=False)
    g = torch.Generator().manual_seed(0)
    return Enc(m), (torch.randint(1000, 20000, (16, 128), generator=g), torch.ones(16, 128, dtype=torch.long))

class Side:
    def __init__(self, body, inputs, width, kind, p):
        torch.manual_seed(0)
        self.kind=kind
        names = [n for n,m in body.named_modules() if type(m) is nn.Linear]
        body.requires_grad_(False); body.eval()
        if kind=="peft":
            from peft import LoraConfig, get_peft_model
            body = get_peft_model(body, LoraConfig(r=8, lora_alpha=16, lora_dropout=p, target_modules=names))
            body.eval()
            mods=[m for m in body.modules() if hasattr(m,'lora_A') and hasattr(m,'base_layer')]
            self.ab=[(m.lora_A.default.weight, m.lora_B.default.weight) for m in mods]
            for m in mods: m.train()
        elif kind=="ours":
            add_low_rank(body, tuple(names), 8, 16, p)
            mods=[body.get_submodule(n) for n in names]
            self.ab=[(m.A,m.B) for m in mods]
            for m in mods: m.train()
            for m in mods: m.base.requires_grad_(False)
        self.body, self.inputs=body, inputs
        self.head=nn.Linear(width,5)
        if kind=="limit":
            # gradient to the input: the embedding output requires grad
            self.ab=[]
        g=torch.Generator().manual_seed(1)
        for a,b in self.ab:
            with torch.no_grad():
                a.copy_(torch.randn(a.shape,generator=g)*.02); b.copy_(torch.randn(b.shape,generator=g)*.02)
        self.params=[p for ab in self.ab for p in ab]+list(self.head.parameters())
        self.opt=torch.optim.AdamW(self.params, lr=0.)
        self.y=torch.arange(len(inputs[0]))%5
        if kind=="limit":
            first=[m for n,m in body.named_modules() if n==names[0]][0]
            first.register_forward_pre_hook(lambda m,a: (a[0].detach().requires_grad_(),))
    def step(self):
        loss=F.cross_entropy(self.head(self.body(*self.inputs)), self.y)
        loss.backward(); self.opt.step(); self.opt.zero_grad()
    def grads(self):
        loss=F.cross_entropy(self.head(self.body(*self.inputs)), self.y)
        loss.backward(); g=[p.grad for p in self.params]; self.opt.zero_grad(); return loss.item(), g

if __name__=="__main__":
    torch.set_num_threads(int(sys.argv[3]) if len(sys.argv)>3 else 1)
    import copy
    rounds=int(sys.argv[2]) if len(sys.argv)>2 else 5
    for name,make,width in (("minilm",minilm,384),("vit",vit,192),("wide",wide,768)):
        if sys.argv[1] not in ("all",name): continue
        body,inputs=make()
        sides={}
        for kind in ("peft","ours"):
            for p in (0.,.1):
                sides[kind,p]=Side(copy.deepcopy(body),inputs,width,kind,p)
        sides["limit",0.]=Side(copy.deepcopy(body),inputs,width,"limit",0.)
        l1,g1=sides["peft",0.].grads(); l2,g2=sides["ours",0.].grads()
        print(name,l1,l2,"grad diff",max(((a-b).abs().max()/(a.abs().max()+1e-12)).item() for a,b in zip(g1,g2)))
        times={k:[] for k in sides}
        for r in range(rounds+1):
            for k,s in sides.items():
                a=time.process_time(); s.step(); d=time.process_time()-a
                if r: times[k].append(d)
        lim=np.array(times["limit",0.])
        for k,v in times.items():
            v=np.array(v)
            print(name,k,"%.3f s  /limit %.3f (%.3f-%.3f)"%(np.median(v),np.median(v/lim),(v/lim).min(),(v/lim).max()), flush=True)
        for p in (0.,.1):
            q=np.array(times["ours",p])/np.array(times["peft",p]); print(name,"ours/peft",p,"%.3f (%.3f-%.3f)"%(np.median(q),q.min(),q.max()), flush=True)
