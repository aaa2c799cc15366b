"""Settings shared by all experiments; each experiment file changes what it needs."""

from ml_collections import ConfigDict, config_dict


def get_config() -> ConfigDict:
    """The base configuration; every field can be overridden, as in --config.train.steps=100."""
    config = ConfigDict()
    config.seed = 0
    config.device = "auto"  # "auto" takes a GPU if there is one; or "cpu", "cuda", "cuda:1"
    config.threads = 1  # CPU threads of torch (small networks are fastest on one); 0 leaves torch's own choice

    config.data = data = ConfigDict()
    data.name = "digits"  # "digits", "digit_features", "patches", "emoji", "mixture", "mnist" or "fashion_mnist"
    data.directory = config_dict.placeholder(str)  # folder of the IDX files ("mnist")
    # Pictures of one's own instead: a folder of pictures (sub-folders are labels), of tar files or of IDX files, a file .npz,
    # .npy, .parquet or .tar, or a folder that `datasets` saved; begin with configs/images.py.
    data.source = ""
    data.column = ""  # of the pictures, where there are several
    data.label = ""  # column of the labels; "" for the usual one where there is one
    data.groups = ""  # column whose equal values stay in one part of the split, such as the person of a picture
    data.size = 0  # side in pixels: the middle square is cut out and resized; 0 leaves pictures as they are
    data.channels = 0  # 1 for grey, 3 for colour; 0 leaves them
    data.resample = "bicubic"  # Pillow's filter
    data.workers = 0  # processes that read pictures ahead; which ones, and their order, do not depend on it
    data.prefetch = 2  # times 16 pictures that each of them reads ahead
    data.lo, data.hi = -1.0, 1.0
    data.levels = 17  # grey levels; 0 for continuous data
    data.split = (
        1200,
        300,
        297,
    )  # train, validation, test: numbers of examples, or shares below 1 (not of "patches", "mixture")
    data.split_seed = 0
    data.patch_size = 16  # of "patches"
    data.variants = 6  # of "emoji": images of one base in the training part; there data.split counts bases

    config.schedule = ConfigDict({"name": "linear_vp", "beta_min": 0.1, "beta_max": 20.0})

    config.network = network = ConfigDict()
    # Empty for the one that --mode=train left in the workdir; a network shipped with the package; a folder of save_unet's;
    # "diffusers:FOLDER"; "MODULE:FUNCTION" or "file.py:FUNCTION", which makes it; "torchscript:FILE".
    network.source = "digits_unet"
    network.weights = ""  # a checkpoint for the network that a function makes
    # How it is fed and read, where the source does not say or says it wrongly; --mode=inspect finds out.
    network.predicts = "auto"  # "eps", "x_0", "v", "velocity", "score" or "edm"
    # "zero_based", "continuous", "sigma", "log_snr", ..; with settings as in "{'name': 'zero_based', 'steps': 1000}"
    network.times = ConfigDict({"name": "auto"})
    network.coordinates = "auto"  # of its input: "schedule", "vp", "ve", "interpolant" or "edm"
    network.sigma_data = 0.0  # of "edm"; 0 for what the source says, or 0.5
    network.condition = ""  # its argument that labels of the data go to, as "class_labels"; empty for none
    network.features = ""  # last layer of a network of others, as "conv_out": heads read its input; ours tell theirs
    network.dtype = "auto"  # "float16" or "bfloat16": precision of the network, whatever the data's
    network.channels_last = False  # memory format of its convolutions: faster on GPUs in half precision
    network.clamp = "data"  # confine predicted x_0 to the range of the data, "trained": as the source says, or "none"
    # Stack the network's x_0 with what is free: "linear" with the best linear denoiser, by coefficient, "mean" with the mean of
    # the data, "auto" as "linear" where that gains anything on examples that were not fitted; "off" leaves it as it is.
    network.recalibrate = "off"
    network.recalibration_draws = 400  # network evaluations per noise level, 24 of them

    config.estimate = estimate = ConfigDict()
    estimate.knots = 50  # noise levels to begin with, about even in log-SNR
    estimate.most_knots = 128  # in the end: some are added where R between them is less certain than at them; 0 adds none
    estimate.log_snr_min = -10.0
    estimate.log_snr_max = 10.2
    # What decides where draws go, and what tolerance means: "variance", the relative standard error of R at every knot; "bits",
    # the standard error of bits/dim; or "grid", the share of the excess of optimal grids that errors of the curve add.
    estimate.answer = "variance"
    estimate.tolerance = 0.01
    estimate.min_draws = 300  # network evaluations per knot
    estimate.max_draws = 600
    estimate.batch_size = 100
    estimate.train_knots = 8  # of these levels the training split is measured too, to see what was learned by heart; 0 for none
    # Levels at which a network that has a label for "none" is measured with and without its labels, two evaluations a draw, to
    # say what the labels are worth and what guidance costs; 0 for none.
    estimate.condition_knots = 17
    estimate.bounds = ("score",)  # curves capped by what the data covariance allows an exact score

    config.covariance = covariance = ConfigDict()
    # The covariance of "agreement", of optimal grids of samples, and one more in every list of variances: "beta", "beta_tilde"
    # (or "zero": nothing beyond the exact posterior's), "isotropic" (or "residual"), "score"; diagonal in a basis, "scalar",
    # "channel", "pixel", "pixel_channel", "dct", "dct_radial", "colour_dct", "pca", alone or given a free statistic,
    # "dct|high_frequency"; "tweedie"; or "auto", the best of those recorded by held-out bits.
    covariance.name = "isotropic"
    # Bases that the pass of "estimate" records, besides those that are named in lists of variances.
    covariance.bases = ()
    covariance.statistics = ()  # "high_frequency", "gradient" (per pixel, for "pixel"), "energy", "mean"
    covariance.pca_rank = 0  # components of "pca"; 0 for all, exactly
    covariance.bins = (1, 4, 8, 16)  # quantile bins, shrinkage and smoothness are chosen among these by held-out bits
    covariance.shrinkage = (0.0, 30.0, 300.0, float("inf"))  # on the command line, infinity is 1e999
    covariance.smooth = (False, True)
    covariance.steps = 10  # of the chain whose held-out bits decide
    # The variance "tweedie" is the network's own Jacobian, state by state, at the cost of vector products with it.
    covariance.products = 3  # per sampling step
    covariance.two_sided = False  # products with the symmetrised Jacobian: exact sooner, each three times as costly

    config.grid = grid = ConfigDict()
    grid.points = 1000  # fine grid of the dynamic programme, even in log-SNR
    grid.table = 0  # N > 0: only the times n/N instead, for networks that take whole indices
    grid.min_spacing = 0.0  # smallest difference of log-SNR between neighbouring times
    # "dp", "closed_form", "refined", "entropic", "klub", or "even", "quadratic", "log_snr", "karras" with "_tuned" for
    # the best first time; or a saved grid, "PATH.json".
    grid.name = "dp"
    grid.steps = 10  # of the grid that --mode=grid writes as grid.json
    grid.compare = (
        "dp",
        "refined",
        "closed_form",
        "entropic",
        "klub",
        "log_snr_tuned",
        "karras_tuned",
        "quadratic_tuned",
        "even_tuned",
    )
    grid.steps_table = (3, 5, 10, 25, 50, 100)
    grid.shown_steps = 15  # in the picture of where grids put their steps
    grid.max_steps = 200  # largest K of the step budgets
    grid.excess = (0.5, 0.2, 0.1, 0.05, 0.02)  # bits/dim over the continuous limit
    grid.log_snr_max = 9.0  # log-SNR of the first time t_1 of fixed grids, and the highest that is searched

    config.learned = learned = ConfigDict()  # --mode=schedule: the schedule by which the bound's estimator varies least
    learned.sampling = "independent"  # of times of different draws, or "stratified" over them
    learned.ends = ()  # lowest and highest log-SNR; () for the best ones
    learned.tolerance = 1e-3  # most that the prior may cost at the best lowest one, bits/dim

    config.sample = sample = ConfigDict()
    sample.steps = (5, 10, 25, 50)
    # A sheet per grid: "even", "quadratic", "log_snr", "karras", "dp", ... as in grid.name.
    sample.grids = ("log_snr", "dp")
    sample.grid_variance = ""  # the variance for which "dp" and "tuned" grids are optimised; empty for covariance.name
    sample.fewest = ()  # numbers K of calls for samples of the fewest calls: a table fitted to the network's flow, or noise too
    sample.choose = True  # the sampler of the fewest calls by comparing samples to validation examples; False takes the table
    sample.variances = ("beta", "beta_tilde", "score", "residual")
    sample.seed = 0
    sample.eta = 1.0
    sample.guidance = 1.0  # scale of classifier-free guidance, of networks that are given labels; two evaluations a call
    sample.null = -1  # the label that says there is none; -1 for train.classes, the one after the last
    sample.final = "mean"  # "mean" as in the papers, or "draw" from the posterior N(x_0_hat, V0)
    sample.clip_pixels = 0.0  # > 0: the last noise is at most this many levels (Analytic-DPM, appendix)
    sample.count = 48
    sample.batch_size = 48

    config.evaluate = evaluate = ConfigDict()
    # "predicted" from the curve; "bound" of K-step chains; "continuous" time; probability "flow"; "exact" (mixtures).
    evaluate.methods = ("predicted", "bound", "continuous", "flow", "exact")
    evaluate.decoder = "gaussian"  # of all bounds: "gaussian" at its best std, "categorical", or "none" (density of x_{t_1})
    # Grid and variance of the chains that all methods are compared with; an empty variance is covariance.name.
    evaluate.agreement = ("dp", "")
    evaluate.steps = (5, 10, 25)  # measured on the test split
    evaluate.grids = ("even", "dp")  # measured on the test split, besides the convention of published tables
    evaluate.paper = True  # the convention of published tables as well
    evaluate.predicted_steps = (3, 4, 5, 6, 8, 10, 15, 20, 25, 35, 50, 75, 100)
    evaluate.variances = ("beta", "beta_tilde", "score", "residual")
    evaluate.predicted_grids = ("even_tuned",)
    evaluate.draws = 1  # noise draws per test example and step
    evaluate.batch_size = 297
    evaluate.examples = 0  # test examples used; 0 for all
    evaluate.continuous = continuous = ConfigDict()
    continuous.times = 16  # noise levels per test example
    continuous.importance_sampling = True  # drawn in proportion to the curve's R, instead of uniformly in log-SNR
    evaluate.flow = flow = ConfigDict()
    flow.entry = "diffused"  # how data enter: "diffused" (then decoded), "uniform" dequantisation, "direct" (continuous)
    flow.log_snr_max = 0.0  # log-SNR where the flow begins; 0 for where the continuous bound ends
    flow.variable = "log_snr"  # or "t"
    flow.solver = "dopri5"
    flow.rtol, flow.atol = 1e-4, 1e-4
    flow.max_steps = 10_000
    flow.steps = 0  # > 0: so many even steps of a fixed-step solver ("euler", "midpoint", "rk4")
    flow.probes = 1  # of Hutchinson's divergence estimate; 0 for the exact trace
    flow.law = "rademacher"  # or "gaussian"
    flow.importance_samples = 1
    flow.examples_per_block = 100  # integrated together, with one step size

    config.compare = compare = ConfigDict()  # --mode=compare: every solver on the same network
    # "quick" (minutes) or "full"; what it says for a field that is 0, () or "" here: score_sde_analytic/compare/settings.py.
    compare.budget = "quick"
    compare.solvers = ()  # names of compare/registry.py; any covariance as "ancestral(NAME)" or "ancestral(NAME, eta=0.5)"
    compare.calls = ()  # budgets K of network calls; every solver takes as many steps as fit
    compare.grids = ()  # of all solvers: "log_snr", "dp", "karras", "even", "quadratic"; NAME_tuned has a first time of its own
    compare.tolerances = ()  # of adaptive solvers, relative and absolute
    compare.max_steps = 1000  # of adaptive solvers; a run that needs more is marked
    compare.count = 0  # samples per cell
    compare.batch_size = 500
    compare.seed = 0
    compare.start = (
        "prior"  # of all samples; "gaussian": of the data's Gaussian, and grids begin where something is to be known
    )
    compare.search = ()  # log-SNRs of first times that are tried for every solver and K on the metric itself: the grid "best"
    compare.log_snr_max = 0.0  # log-SNR of the first time t_1 of all solvers and grids; 0 for the best of infinitely many steps
    compare.grid_variance = "residual"  # the variance for which "dp" is optimal
    compare.bits = ""  # of chains with eta = 1: "predicted", "measured" on the test split, or "none"
    compare.flow = False  # also the likelihood of adaptive probability flows, as config.evaluate.flow has it
    compare.features = ""  # that images are compared in: "pixels", a basis, a classifier's name or folder; "" for the usual
    compare.reference = ("validation", "test")  # splits that samples are compared with
    compare.reference_examples = 0  # at most so many of them; draws of a mixture
    compare.groups = 10  # of the jackknife that gives distances their errors
    compare.sheet = 24  # samples kept per cell
    compare.paths = 10  # budget of the runs whose paths are recorded; 0 for none
    compare.compile = ""  # mode of torch.compile: "default", "reduce-overhead" (CUDA graphs), ...; "" for none

    config.code = code = ConfigDict()  # --mode=compress and --mode=decompress: pictures without a loss, at the chain's bits/dim
    # A folder of 8-bit pictures, or a file .npz of them, of any size: they are cut into tiles of the network's; the other way
    # round a file .ssac. Values of pixels are the data's levels.
    code.input = ""
    code.output = ""  # a file .ssac; the other way round a folder, or a file .npz
    code.steps = 10  # network calls per tile: more take fewer bits
    code.grid = "dp"
    code.covariance = ""  # diagonal in a basis; empty for covariance.name
    code.prior = "gaussian"  # of the data, or "" for N(0, I) at t = 1
    code.ratio = 0.5  # of the lattice of latents to the smallest deviation
    code.arithmetic = "float32"  # to be decoded on this machine, or "exact": on any, and slower
    code.batch_size = 64
    code.embed = False  # put the chain into the file, which else is decoded with this workdir only

    config.translate = translate = ConfigDict()  # --mode=translate: pictures of another domain, led to that of the data
    # A folder of pictures or of IDX files, a file .npz, "digits" or "emoji", brought to the form of the data; or a part of the
    # data, "train", "validation" or "test".
    translate.source = "test"
    translate.count = 64  # pictures of it, the first ones; 0 for all
    translate.start = (-1.5, -0.5, 0.5, 1.5)  # log-SNRs that they are led back to data from (SDEdit): less keeps less
    # (expert, weight) as in EGSDE: "lowpass", the squared distance of means over blocks of pixels, keeps to the source;
    # "cosine", of the features of translate.classifier, drives away from it, as in (("cosine", 10.0), ("lowpass", 0.2)).
    translate.energies = (("lowpass", 0.2),)
    translate.strengths = (1.0,)  # factors of all weights, a row of pictures each, besides SDEdit's: 0
    translate.factor = 2  # side of the blocks of "lowpass", in pixels
    translate.classifier = ""  # folder of a classifier of noisy images (classifier.log_snr), here of domains
    translate.reference = "fresh"  # noise of the source, which states are compared with: at every step, or "shared" by all
    translate.steps = 15  # network calls
    translate.grid = "log_snr"  # from the start on; "dp", "even", ..
    translate.covariance = ""  # empty for covariance.name
    translate.source_label = -1  # pictures of this label alone; -1 for all
    translate.label = -1  # that results are to be of, by a network that is given labels; -1 for none
    translate.seed = 0
    translate.batch_size = 64
    translate.shown = 16  # pictures side by side

    config.head = head = ConfigDict()
    # Covariance heads on the frozen network (--mode=train_head). Their kinds are variances then, as in sample.variances;
    # "npr|uncalibrated" is one without its shift.
    head.kinds = ("npr", "sn", "ocm", "interpolated")
    head.path = config_dict.placeholder(str)  # where heads are read from; else WORKDIR/heads, or those shipped with the network
    head.architecture = "features"  # on the input of the network's last layer, or a "separate" network
    head.hidden = 32
    head.blocks = 2
    head.position = True  # tells the pixels apart; False for images of any size
    head.steps = 1500
    head.batch_size = 64
    head.learning_rate = 2e-3
    head.warmup = 100
    head.weight_decay = 1e-4
    head.log_snr = (-10.2, 10.2)  # training noise levels, uniform in log-SNR
    head.loss = "step"  # bits of a step, "likelihood" of residuals, or "mse" as in the papers
    head.step = (0.3, 6.0)  # shortest and longest step in log-SNR of the loss "step"
    head.chain = "even"  # whose bound the interpolated head minimises: steps even in t (the paper), or in "log_snr"
    head.chain_steps = 1000
    head.calibrate = True  # shift the logits on the validation split, linear between knots in log-SNR
    head.calibrate_knots = 10
    head.held_out_draws = 8  # noisy states per validation example
    head.checkpoint_seconds = 60.0

    config.train = train = ConfigDict()
    train.predicts = "v"  # with levels uniform in log-SNR, or "velocity" of a rectified flow, uniform in t
    train.steps = 8000
    train.batch_size = 64
    train.learning_rate = 1e-3
    train.warmup = 200
    train.ema = 0.999
    train.classes = 0  # of the data's labels that the network is given; 0 for none
    train.drop_labels = 0.1  # how often a label is withheld (label number train.classes)
    train.mirror = False  # left to right, half of the images
    train.log_snr = (-7.0, 9.0)  # lowest and highest training noise level
    # What is minimised: "v", the error of what is predicted at its own levels; "eps", DDPM's simple loss; "bound", 1/2 of the
    # integral of R; "discrete", the bound of the steps of a grid.
    train.loss = "v"
    # Where levels are drawn, whatever is minimised: "even", "adaptive" in proportion to the loss as it was met, "linear_vp"
    # even in that schedule's time, or "learned_net" as in variational diffusion models.
    train.times = "even"
    train.precision = "float32"  # or "bfloat16" for the network's products; its weights stay of single precision
    train.grid = ""  # of "discrete": a saved grid of config.schedule, "PATH.json"; "" for steps even in log-SNR,
    train.grid_steps = 1000  # so many
    train.fourier = 0  # highest frequencies of Fourier features of the input; 2 as in variational diffusion models
    train.log_every = 100  # steps of a row of WORKDIR/training.jsonl
    train.validate_every = 0  # steps between measurements of the validation split; 0 for one in the end
    train.validate_draws = 600  # network evaluations of one
    train.checkpoint_seconds = 60.0
    train.unet = ConfigDict(
        {
            "sample_size": 8,
            "in_channels": 1,
            "out_channels": 1,
            "layers_per_block": 1,
            "block_out_channels": (24, 48),
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
            "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
            "norm_num_groups": 8,
            "attention_head_dim": 8,
            "dropout": 0.1,
        }
    )

    config.classifier = classifier = ConfigDict()  # --mode=train_classifier: its features measure sample quality
    classifier.steps = 2000
    classifier.batch_size = 64
    classifier.learning_rate = 2e-3
    classifier.warmup = 50
    classifier.weight_decay = 1e-2
    classifier.shift = 1  # images are moved by up to so many pixels in training
    classifier.channels = (16, 32)  # one block per entry, each halves the image
    classifier.features = 32
    classifier.dropout = 0.2
    # Lowest and highest log-SNR of images that it is told the noise of: it guides samples then; () for images without noise.
    classifier.log_snr = ()
    # Pictures of another domain, as translate.source: it tells domains apart then, theirs class 0, the data 1.
    classifier.against = ""
    return config
