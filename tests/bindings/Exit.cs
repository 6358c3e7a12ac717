// A process that ends while background threads train and ask: Exit.exe MODEL
using System;
using System.Threading;
using Retto;

static class Exit
{
    static void Main(string[] arguments)
    {
        var model = Model.Open(new Gpu(), arguments[0]);
        var trainer = new Trainer(model, new TrainingOptions { NumTrainEpochs = 1000, EvalSteps = 3 });
        var lines = new string[300];
        for (var i = 0; i < lines.Length; i++) lines[i] = "take me back to the road where we began " + i;
        trainer.AddLines(lines);
        trainer.AddLines(lines, Split.Validation);
        var kinds = new bool[6];
        var seen = new CountdownEvent(2);
        Start(() =>
        {
            trainer.Run(progress =>
            {
                kinds[(int)progress.Kind] = true;
                var all = kinds[(int)ProgressKind.Preparing] && kinds[(int)ProgressKind.Evaluating];
                if (progress.Step == 4 && progress.Kind == ProgressKind.Step && all) seen.Signal();
                return true;
            });
        });
        Start(() =>
        {
            for (var i = 0; ; i++)
            {
                model.FillMask("take me [MASK]");
                if (i == 3) seen.Signal();
            }
        });
        seen.Wait();
        Console.WriteLine("ends");
    }

    private static void Start(Action body)
    {
        new Thread(() => body()) { IsBackground = true }.Start();
    }
}
