// Retto in C#: the C library through P/Invoke. .NET Standard 2.0's language level (C# 7), so that Mono, .NET Framework, .NET and
// Unity compile it. What a function does, on which thread and for how long, stands in retto.h.
using System;
using System.Collections.Generic;
using System.Runtime.InteropServices;
using System.Text;

namespace Retto
{
    /// <summary>What the C library answers.</summary>
    public enum Status
    {
        Ok = 0, InvalidArgument = 1, Io = 2, BadCheckpoint = 3, Unsupported = 4, NoAdapter = 5, DeviceLimit = 6,
        GpuOutOfMemory = 7, DeviceLost = 8, Cancelled = 9, Busy = 10, Panic = 11, AbiMismatch = 12, InvalidHandle = 13,
        InvalidUtf8 = 14, OutOfRange = 15, WrongState = 16, BadTokenizer = 17, NoMlmHead = 18, NoMask = 19, TooLong = 20,
        EmptyCorpus = 21, BadData = 22, Diverged = 23, GpuError = 24,
        RankFailed = 25, NotFinite = 26, OtherRun = 27, FolderInUse = 28,
    }

    /// <summary>A call that failed.</summary>
    public sealed class RettoException : Exception
    {
        public Status Status { get; }
        /// <summary>Of a step that was cancelled, what was done; else null.</summary>
        public Progress Progress { get; internal set; }
        internal RettoException(Status status, string message) : base(message.Length > 0 ? message : status.ToString())
        {
            Status = status;
        }
    }

    /// <summary>One answer for one mask.</summary>
    public sealed class Fill
    {
        public float Score { get; internal set; }
        public uint Token { get; internal set; }
        public string TokenStr { get; internal set; }
        public string Sequence { get; internal set; }
    }

    /// <summary>Where a word stands among a model's answers: 1 is the first.</summary>
    public sealed class GoldRank
    {
        public ulong Rank { get; internal set; }
        public uint Token { get; internal set; }
        public float Score { get; internal set; }
    }

    public enum AdapterType { Other = 0, Discrete = 1, Integrated = 2, Virtual = 3, Cpu = 4 }

    /// <summary>An adapter, as the driver describes it.</summary>
    public sealed class Adapter
    {
        public uint Index { get; }
        public string Name { get; }
        public string Backend { get; }
        public string Driver { get; }
        public ulong MemoryBytes { get; }
        public ulong MaxStorageBufferBindingSize { get; }
        public ulong MaxBufferSize { get; }
        public AdapterType Type { get; }
        /// <summary>Whether it can be trained with Fp16.</summary>
        public bool ShaderF16 { get; }
        public bool IsSoftware => Type == AdapterType.Cpu;

        internal Adapter(Native.AdapterInfo info)
        {
            Index = info.index;
            Name = Native.Text(info.name);
            Backend = Native.Text(info.backend);
            Driver = Native.Text(info.driver);
            MemoryBytes = info.memoryBytes;
            MaxStorageBufferBindingSize = info.maxStorageBufferBindingSize;
            MaxBufferSize = info.maxBufferSize;
            Type = info.adapterType <= (uint)AdapterType.Cpu ? (AdapterType)info.adapterType : AdapterType.Other;
            ShaderF16 = info.shaderF16 != 0;
        }
    }

    /// <summary>How held-out lines are filled: the loss in nats, and shares of masked tokens.</summary>
    public sealed class Evaluation
    {
        public double Loss { get; internal set; }
        public double Perplexity { get; internal set; }
        public double Top1Accuracy { get; internal set; }
        public double Top10Accuracy { get; internal set; }
        public ulong MaskedTokens { get; internal set; }
    }

    /// <summary>How held-out lines are masked, with the defaults of retto_evaluation_options.</summary>
    public sealed class EvaluationOptions
    {
        public double MlmProbability = 0.15;
        public double MaskReplaceProb = 0.8;
        public double RandomReplaceProb = 0.1;
        public bool WholeWordMask;
        public uint PerDeviceEvalBatchSize = 32;
        /// <summary>0: the model's longest.</summary>
        public uint MaxSeqLength;
        public ulong Seed = 42;
    }

    /// <summary>A vector for each text.</summary>
    public sealed class Embeddings : List<float[]>
    {
        /// <summary>How many texts were too long, and cut.</summary>
        public ulong Truncated { get; internal set; }
    }

    /// <summary>An adapter, opened.</summary>
    public sealed class Gpu : IDisposable
    {
        private readonly GpuHandle handle;
        private volatile bool disposed;

        internal GpuHandle Handle => disposed ? throw new ObjectDisposedException(nameof(Gpu)) : handle;

        /// <param name="adapter">Its index; -1: the one that is preferred.</param>
        public Gpu(int adapter = -1, bool lowPower = false, bool allowSoftware = true, string cacheDir = null)
        {
            Native.CheckVersion();
            var options = new Native.GpuOptions();
            Native.Check(Native.retto_gpu_options_init(ref options, Native.Size<Native.GpuOptions>()));
            options.adapterIndex = adapter;
            options.powerPreference = lowPower ? 1u : 0u;
            options.allowSoftware = allowSoftware ? 1u : 0u;
            using (var folder = new Utf8(cacheDir))
            {
                options.cacheDir = folder.Data;
                options.cacheDirLength = folder.Length;
                GpuHandle opened = null;
                Native.Call((out IntPtr error) => Native.retto_gpu_open(ref options, out opened, out error));
                handle = opened;
            }
        }

        public Adapter Adapter
        {
            get
            {
                var info = new Native.AdapterInfo { structSize = (uint)Native.Size<Native.AdapterInfo>() };
                using (new Held(Handle))
                {
                    Native.Call((out IntPtr error) => Native.retto_gpu_adapter(Handle, ref info, out error));
                    return new Adapter(info);
                }
            }
        }

        /// <summary>Bytes of GPU memory held by everything made with it.</summary>
        public ulong MemoryInUse
        {
            get
            {
                ulong bytes = 0;
                Native.Call((out IntPtr error) => Native.retto_gpu_memory_in_use(Handle, out bytes, out error));
                return bytes;
            }
        }

        /// <summary>Gives back the memory that is kept for the next call.</summary>
        public void Trim() => Native.Call((out IntPtr error) => Native.retto_gpu_trim(Handle, out error));

        /// <summary>The adapters of this machine.</summary>
        public static List<Adapter> Adapters()
        {
            Native.CheckVersion();
            AdaptersHandle list = null;
            Native.Call((out IntPtr error) => Native.retto_adapters_list(out list, out error));
            using (list)
            {
                var adapters = new List<Adapter>();
                var count = (ulong)Native.retto_adapters_count(list);
                for (ulong i = 0; i < count; i++)
                {
                    var at = i;
                    var info = new Native.AdapterInfo { structSize = (uint)Native.Size<Native.AdapterInfo>() };
                    Native.Call((out IntPtr error) => Native.retto_adapters_get(list, (UIntPtr)at, ref info, out error));
                    adapters.Add(new Adapter(info));
                }
                return adapters;
            }
        }

        /// <summary>Frees it when the calls that use it have returned; later ones throw.</summary>
        public void Dispose()
        {
            disposed = true;
            handle.Dispose();
        }
    }

    /// <summary>What weights are made of: four bytes each, two, or one.</summary>
    public enum Dtype : uint
    {
        Float32 = 0,
        Float16 = 1,
        Int8 = 2,
    }

    /// <summary>A model, which never changes: any number of threads may use it.</summary>
    public sealed class Model : IDisposable
    {
        private readonly ModelHandle handle;
        private volatile bool disposed;

        internal Model(ModelHandle handle) => this.handle = handle;

        // A handle that threads keep in use from call to call would never count as closed.
        internal ModelHandle Handle => disposed ? throw new ObjectDisposedException(nameof(Model)) : handle;

        /// <summary>Opens a folder in Hugging Face's layout, with a low-rank adapter of PEFT's format if one is given.</summary>
        public static Model Open(Gpu gpu, string path, string adapter = null)
        {
            ModelHandle handle = null;
            using (var folder = new Utf8(path))
            using (var with = new Utf8(adapter))
            {
                Native.Call((out IntPtr error) => adapter == null
                    ? Native.retto_model_open(gpu.Handle, folder.Data, folder.Length, out handle, out error)
                    : Native.retto_model_open_with_adapter(gpu.Handle, folder.Data, folder.Length, with.Data, with.Length,
                        out handle, out error));
            }
            return new Model(handle);
        }

        /// <summary>Opens a folder for queries alone, with smaller weights: see ToDtype.</summary>
        public static Model Open(Gpu gpu, string path, Dtype dtype)
        {
            ModelHandle handle = null;
            using (var folder = new Utf8(path))
            {
                Native.Call((out IntPtr error) => Native.retto_model_open_with_dtype(gpu.Handle, folder.Data, folder.Length,
                    (uint)dtype, out handle, out error));
            }
            return new Model(handle);
        }

        /// <summary>Opens the model that is part of the library, where it was built with one.</summary>
        public static Model OpenDefault(Gpu gpu)
        {
            ModelHandle handle = null;
            Native.Call((out IntPtr error) => Native.retto_model_open_default(gpu.Handle, out handle, out error));
            return new Model(handle);
        }

        /// <summary>A copy for queries with smaller weights: half or a quarter of the memory, nearly the same answers.</summary>
        public Model ToDtype(Dtype dtype)
        {
            ModelHandle handle = null;
            Native.Call((out IntPtr error) => Native.retto_model_to_dtype(Handle, (uint)dtype, out handle, out error));
            return new Model(handle);
        }

        private T Info<T>(Func<Native.ModelInfo, T> read)
        {
            var info = new Native.ModelInfo { structSize = (uint)Native.Size<Native.ModelInfo>() };
            using (new Held(Handle))
            {
                Native.Call((out IntPtr error) => Native.retto_model_get_info(Handle, ref info, out error));
                return read(info);
            }
        }

        public string Name => Info(info => Native.Text(info.name));
        public string MaskToken => Info(info => Native.Text(info.maskToken));
        public bool HasMlmHead => Info(info => info.hasMlmHead != 0);
        public uint VocabSize => Info(info => info.vocabSize);
        public uint HiddenSize => Info(info => info.hiddenSize);
        public uint MaxPositionEmbeddings => Info(info => info.maxPositionEmbeddings);
        public Dtype Dtype => Info(info => (Dtype)info.dtype);
        public ulong NumParameters => Info(info => info.numParameters);

        /// <summary>Compiles what queries need, so that the first is as fast as the others.</summary>
        public void WarmUp() => Native.Call((out IntPtr error) => Native.retto_model_warm_up(Handle, out error));

        /// <summary>For each mask of the text its answers, best first.</summary>
        public List<List<Fill>> FillMask(string text, int topK = 5) => FillMask(new[] { text }, topK)[0];

        /// <summary>The same for several texts at once.</summary>
        public List<List<List<Fill>>> FillMask(IReadOnlyList<string> texts, int topK = 5)
        {
            if (topK < 0) throw new ArgumentOutOfRangeException(nameof(topK));
            FillsHandle fills = null;
            using (var given = new Utf8List(texts))
            {
                Native.Call((out IntPtr error) => Native.retto_model_fill_mask_batch(Handle, given.Strings, given.Count,
                    (UIntPtr)(uint)topK, out fills, out error));
            }
            using (fills)
            {
                var result = new List<List<List<Fill>>>();
                for (uint text = 0; text < texts.Count; text++) result.Add(Answers(fills, text));
                return result;
            }
        }

        /// <summary>The rank of a word among all answers for the one mask of a text.</summary>
        public GoldRank RankGold(string text, string gold)
        {
            var found = new Native.GoldRank { structSize = (uint)Native.Size<Native.GoldRank>() };
            using (var blank = new Utf8(text))
            using (var word = new Utf8(gold))
            {
                Native.Call((out IntPtr error) => Native.retto_model_rank_gold(Handle, blank.Data, blank.Length, word.Data,
                    word.Length, ref found, out error));
            }
            return new GoldRank { Rank = found.rank, Token = found.token, Score = found.score };
        }

        private static List<List<Fill>> Answers(FillsHandle fills, uint text)
        {
            UIntPtr masks = UIntPtr.Zero, count = UIntPtr.Zero;
            Native.Call((out IntPtr e) => Native.retto_fills_mask_count(fills, (UIntPtr)text, out masks, out e));
            var result = new List<List<Fill>>();
            for (uint mask = 0; mask < (uint)masks; mask++)
            {
                var m = mask;
                Native.Call((out IntPtr e) => Native.retto_fills_count(fills, (UIntPtr)text, (UIntPtr)m, out count, out e));
                var answers = new List<Fill>();
                for (uint rank = 0; rank < (uint)count; rank++)
                {
                    var r = rank;
                    var fill = new Native.Fill { structSize = (uint)Native.Size<Native.Fill>() };
                    Native.Call((out IntPtr e) =>
                        Native.retto_fills_get(fills, (UIntPtr)text, (UIntPtr)m, (UIntPtr)r, ref fill, out e));
                    answers.Add(new Fill
                    {
                        Score = fill.score,
                        Token = fill.token,
                        TokenStr = Native.Text(fill.tokenStr, fill.tokenStrLength),
                        Sequence = Native.Text(fill.sequence, fill.sequenceLength),
                    });
                }
                result.Add(answers);
            }
            return result;
        }

        /// <summary>Masks held-out lines, always in the same way, and measures how they are filled. The callback is told on this
        /// thread how many batches are done, of how many; if it returns false, a RettoException says Cancelled.</summary>
        public Evaluation Evaluate(IReadOnlyList<string> lines, Func<ulong, ulong, bool> progress = null,
            EvaluationOptions options = null)
        {
            options = options ?? new EvaluationOptions();
            var found = new Native.EvaluationFound { structSize = (uint)Native.Size<Native.EvaluationFound>() };
            var native = new Native.EvaluationOptions();
            Native.Check(Native.retto_evaluation_options_init(ref native, Native.Size<Native.EvaluationOptions>()));
            native.mlmProbability = options.MlmProbability;
            native.maskReplaceProb = options.MaskReplaceProb;
            native.randomReplaceProb = options.RandomReplaceProb;
            native.wholeWordMask = options.WholeWordMask ? 1u : 0u;
            native.perDeviceEvalBatchSize = options.PerDeviceEvalBatchSize;
            native.maxSeqLength = options.MaxSeqLength;
            native.seed = options.Seed;
            using (var given = new Utf8List(lines))
            using (var counting = new Counting(progress))
            {
                native.onProgress = counting.Callback;
                native.userData = counting.Data;
                counting.Call((out IntPtr error) => Native.retto_model_evaluate(Handle, given.Strings, given.Count,
                    ref native, ref found, out error));
            }
            return new Evaluation
            {
                Loss = found.loss,
                Perplexity = found.perplexity,
                Top1Accuracy = found.top1,
                Top10Accuracy = found.top10,
                MaskedTokens = found.maskedTokens,
            };
        }

        /// <summary>A vector for each text; lines of one are joined by the separator token. Without options, the defaults. A
        /// text that is too long is cut, with Strict it is an error. The callback is told on this thread how many texts are done, of
        /// how many; if it returns false, a RettoException says Cancelled.</summary>
        public Embeddings Embed(IReadOnlyList<string> texts, EmbedOptions options = null,
            Func<ulong, ulong, bool> progress = null)
        {
            var native = (options ?? new EmbedOptions()).ToNative();
            EmbeddingsHandle embeddings = null;
            using (var given = new Utf8List(texts))
            using (var counting = new Counting(progress))
            {
                native.onProgress = counting.Callback;
                native.userData = counting.Data;
                counting.Call((out IntPtr error) => Native.retto_model_embed(Handle, given.Strings, given.Count, ref native,
                    out embeddings, out error));
            }
            using (embeddings)
            {
                var count = (int)(uint)Native.retto_embeddings_count(embeddings);
                var dimension = (int)(uint)Native.retto_embeddings_dimension(embeddings);
                var values = Native.retto_embeddings_values(embeddings);
                var result = new Embeddings { Truncated = (ulong)Native.retto_embeddings_truncated(embeddings) };
                for (var row = 0; row < count; row++)
                {
                    var vector = new float[dimension];
                    Marshal.Copy(new IntPtr(values.ToInt64() + (long)row * dimension * sizeof(float)), vector, 0, dimension);
                    result.Add(vector);
                }
                return result;
            }
        }

        /// <summary>Writes a folder that retto and transformers open.</summary>
        public void Save(string path)
        {
            using (var folder = new Utf8(path))
                Native.Call((out IntPtr e) => Native.retto_model_save(Handle, folder.Data, folder.Length, out e));
        }

        /// <summary>Frees it when the calls that use it have returned; later ones throw.</summary>
        public void Dispose()
        {
            disposed = true;
            handle.Dispose();
        }
    }

    public enum Pooling : uint { Mean = 0, Cls = 1, Max = 2 }

    /// <summary>How texts are embedded: the fields of retto_embed_options.</summary>
    public sealed class EmbedOptions
    {
        public Pooling Pooling;
        public bool Normalize;
        /// <summary>0: the model's longest.</summary>
        public uint MaxSeqLength;
        public bool Strict;
        public bool DoLowerCase;

        /// <summary>Those of the folder of a sentence-transformers model; of another model's, the defaults.</summary>
        public static EmbedOptions Open(string folder)
        {
            Native.CheckVersion();
            var native = new Native.EmbedOptions { structSize = (uint)Native.Size<Native.EmbedOptions>() };
            using (var path = new Utf8(folder))
                Native.Call((out IntPtr e) => Native.retto_embed_options_open(path.Data, path.Length, ref native, out e));
            return new EmbedOptions
            {
                Pooling = (Pooling)native.pooling,
                Normalize = native.normalize != 0,
                MaxSeqLength = native.maxSeqLength,
                Strict = native.strict != 0,
                DoLowerCase = native.doLowerCase != 0,
            };
        }

        internal Native.EmbedOptions ToNative()
        {
            var native = new Native.EmbedOptions();
            Native.Check(Native.retto_embed_options_init(ref native, (UIntPtr)(uint)Native.Size<Native.EmbedOptions>()));
            native.pooling = (uint)Pooling;
            native.normalize = Normalize ? 1u : 0;
            native.maxSeqLength = MaxSeqLength;
            native.strict = Strict ? 1u : 0;
            native.doLowerCase = DoLowerCase ? 1u : 0;
            return native;
        }
    }
}
