"""Names and shapes of the authors' network."""


def shapes():
    """Return {name: shape} of the authors' parameters."""
    found = {}

    def layer(name, shape, outputs):
        found[f"{name}.weight"], found[f"{name}.bias"] = shape, (outputs,)

    def conv(name, inputs, outputs, kernel=3):
        layer(f"{name}.0", (outputs, inputs, kernel, kernel), outputs)

    def residual(name, channels):
        for i in (0, 2):
            layer(f"{name}.stem.{i}", (channels, channels, 3, 3), channels)

    def up(name, inputs, outputs):
        layer(f"{name}.0", (inputs, outputs, 4, 4), outputs)

    def encoder(prefix, inputs):
        for level, (before, after) in enumerate(((inputs, 32), (32, 64), (64, 128)), 1):
            conv(f"{prefix}{level}_1", before, after)
            residual(f"{prefix}{level}_2", after)
            residual(f"{prefix}{level}_3", after)

    def head(name, inputs):
        conv(f"{name}.0", inputs, 128)
        residual(f"{name}.1", 128)
        residual(f"{name}.2", 128)
        conv(f"{name}.3", 128, 3200, 1)

    conv("fea", 256, 128)
    encoder("conv", 3)
    for level, before, after in ((2, 256, 64), (1, 64, 32)):
        up(f"upconv{level}_u", before, after)
        residual(f"upconv{level}_2", after)
        residual(f"upconv{level}_1", after)
    conv("img_prd", 32, 3)
    encoder("kconv", 9)
    head("fac_warp", 128)
    conv("kconv4", 3200, 128, 1)
    head("fac_deblur", 256)
    return found
