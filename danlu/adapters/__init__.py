"""Adapters: small trained parts beside a base that stays as it is.

What a library user needs is in `danlu.loading`, which knows the published names of a model:

    decoder = load_decoder(base)
    attach_adapter(decoder, LoraConfig(lora_rank=8), torch.Generator().manual_seed(0))
    ...                                        # train what requires a gradient
    save_adapter(decoder, folder, base)        # opens in PEFT as well

    load_adapter(decoder, folder, "style")     # one of any method, beside others
    train_only(decoder, "style")               # warm start: train it further
    with disabled(decoder): ...                # the base, bit for bit
    merge_adapters(decoder, reversible=True)   # into the weights
    unmerge_adapters(decoder)                  # and out again, bit for bit

`handling` does these things for any method. A method is one file in `methods`: it makes, reads and
writes an `Attached`, which can be put on a model and taken off.

    Wrapping       around layers and in the place of parameters: LoRA and its relatives (`low_rank`,
                   `low_rank_embedding`), (IA)3 (`scaling`), rows of tokens (`token_rows`)
    Prefixing      in front of every text: prefixes and prompts

Wrappers nest, and what they change of a weight adds up in float32 (`wrappers`). The modules called
`peft_...` speak the format of PEFT, in the names of the published checkpoint.
"""
